// The dials of sampling. What stands at the server's own value is sent too: what is shown is what is done.
import { $, both, facts, kept, make } from "./dom.js";

const KEY = "congling.settings";
const DIALS = [
  ["temperature", "随机性", "Temperature", 0, 2, 0.05, "0：总取最可能的", "0: always the likeliest"],
  ["top_p", "Top-p", "Top-p", 0.05, 1, 0.05, "只在合起来占这么多的词里选", "only the likeliest that together have this share"],
  ["min_p", "Min-p", "Min-p", 0, 0.5, 0.01, "至少有最可能者的这么多", "at least this part as likely as the likeliest"],
  ["repetition_penalty", "重复惩罚", "Repetition penalty", 0, 5, 0.1, "出现过的词减这么多分", "taken off the score of what was said"],
  ["repetition_decay", "惩罚的衰减", "Its decay", 0.5, 1, 0.01, "惩罚每步剩多少；1：一直记着", "what is left of it each step; 1: all"],
  ["max_tokens", "最长（词元）", "Longest answer (tokens)", 1, facts.limits.max_tokens, 1, "", ""],
];
const defaults = () => ({...Object.fromEntries(DIALS.map(([name]) => [name, facts.sampling[name]])), seed: "", system: "", colours: true});

function stored() {
  try { return JSON.parse(kept.get(KEY)) ?? {}; } catch { return {}; }
}
export const settings = {...defaults(), ...stored()};

function shown(name, value) {
  $(name).value = value;
  $(name + "-value").value = String(+(+value).toFixed(2));
}

function show() {
  for (const [name] of DIALS) shown(name, settings[name]);
  for (const name of ["seed", "system"]) $(name).value = settings[name];
  $("colours").checked = settings.colours;
  document.body.classList.toggle("coloured", settings.colours);
}

function change(name, value) {
  settings[name] = value;
  kept.set(KEY, JSON.stringify(settings));
}

for (const [name, zh, en, min, max, step, zhWhy, enWhy] of DIALS) {
  const slider = make("input", {id: name, type: "range", min, max, step});
  slider.addEventListener("input", () => { change(name, +slider.value); shown(name, slider.value); });
  const label = make("label", {htmlFor: name}, both(zh, en));
  const why = zhWhy ? [make("span", {className: "dim"}, both(zhWhy, enWhy))] : [];
  $("dials").append(make("div", {className: "dial"}, label, make("output", {id: name + "-value", htmlFor: name}), slider, ...why));
}
$("seed").addEventListener("input", () => { $("seed").value = $("seed").value.replace(/\D/g, ""); change("seed", $("seed").value); });
$("system").addEventListener("input", () => change("system", $("system").value));
$("colours").addEventListener("change", () => { change("colours", $("colours").checked); show(); });
$("reset").addEventListener("click", () => {
  Object.assign(settings, defaults());
  kept.drop(KEY);
  show();
});
show();

/** The part of a request's body that says how to sample. */
export function sampling() {
  const chosen = Object.fromEntries(DIALS.map(([name]) => [name, settings[name]]));
  return settings.seed === "" ? chosen : {...chosen, seed: +settings.seed};
}
