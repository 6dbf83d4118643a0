// Plain continuation of a text.
import { notice, stream } from "./api.js";
import { $, both, grow, kept, make, say } from "./dom.js";
import { sampling } from "./settings.js";
import { chip, explain, fit, Grouper, ofText, TOP_LOGPROBS } from "./tokens.js";

const KEY = "congling.beginning", SAMPLES = ["从前有一座山，山上", "北京是", "春天来了，"];
let running = null, given = "", made = "";

function busy(on) {
  $("write-go").hidden = on;
  $("write-stop").hidden = !on;
  $("write-more").hidden = $("write-look").hidden = on || !made;
}

async function go() {
  given = $("write-text").value;
  if (running || !given) return $("write-text").focus();
  running = new AbortController();
  made = "";
  busy(true);
  const box = make("span", {className: "tokens waiting"});
  $("write-out").className = "text growing";
  $("write-out").replaceChildren(make("span", {className: "given"}, given), box);
  explain(box);
  const error = await read(box, running.signal);
  running = null;
  busy(false);
  $("write-out").className = "text";
  if (error) $("write-out").append(notice(error));
  else say(made);
}

async function read(box, signal) {
  const grouper = new Grouper(), groups = [], put = list => { groups.push(...list); box.append(...list.filter(group => !group[2]).map(chip)); };
  try {
    for await (const part of stream("v1/completions", {prompt: given, ...sampling(), logprobs: TOP_LOGPROBS}, signal)) {
      const choice = part.choices[0];
      if (!choice) continue;
      made += choice.text;
      if (choice.logprobs?.tokens?.length) { put(grouper.add(ofText(choice.logprobs))); box.classList.remove("waiting"); }
    }
    return null;
  } catch (error) {
    return error.name === "AbortError" ? null : error;
  } finally {
    put(grouper.end());
    box.classList.remove("waiting");
    box.replaceChildren(...fit(groups, made).map(chip));
  }
}

export function start(look) {
  const text = $("write-text");
  text.value = kept.get(KEY) ?? "";
  text.addEventListener("input", () => { kept.set(KEY, text.value); grow(text); });
  text.addEventListener("keydown", event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); go(); } });
  for (const sample of SAMPLES)
    $("samples").append(make("button", {type: "button", onclick: () => { text.value = sample; kept.set(KEY, sample); go(); }}, sample), " ");
  $("write-go").addEventListener("click", go);
  $("write-stop").addEventListener("click", () => running?.abort());
  $("write-more").addEventListener("click", () => { text.value = given + made; kept.set(KEY, text.value); grow(text); go(); });
  $("write-look").addEventListener("click", () => look({text: given + made}));
}
