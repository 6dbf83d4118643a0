// Tokens of an answer: as text, coloured by how likely the model found them, and what else it had in mind.
//
// A group is what is shown as one: usually one token, several where a character takes more than one.
// It is [text, [[name, log-probability, [[name, log-probability], …]], …]], short because the history keeps it.
import { $, both, english, make } from "./dom.js";

const TOP = 6;
export const TOP_LOGPROBS = TOP;
const groups = new WeakMap(); // element -> its group

const short = value => (value === null || value === undefined ? null : Math.round(value * 1000) / 1000);

/** Tokens of the chat API, or of /inspect. */
export function ofChat(content) {
  return content.map(one => ({
    name: one.token, bytes: one.bytes, logprob: short(one.logprob),
    top: (one.top_logprobs ?? []).slice(0, TOP).map(other => [other.token, short(other.logprob)]),
  }));
}

/** Tokens of the completions API, which spells bytes that are no text as bytes:\xe4\xbd. */
export function ofText(logprobs) {
  const special = /^<\|.*\|>$/, part = /^bytes:((?:\\x[0-9a-f]{2})+)$/;
  const read = name => {
    const bytes = part.exec(name)?.[1].split("\\x").slice(1).map(hex => parseInt(hex, 16));
    return {name: bytes ? "\ufffd" : name, bytes: bytes ?? (special.test(name) ? null : [...new TextEncoder().encode(name)])};
  };
  return logprobs.tokens.map((name, i) => ({
    ...read(name), logprob: short(logprobs.token_logprobs[i]),
    top: Object.entries(logprobs.top_logprobs?.[i] ?? {}).slice(0, TOP).map(([other, logprob]) => [read(other).name, short(logprob)]),
  }));
}

const decode = bytes => new TextDecoder("utf-8", {ignoreBOM: true}).decode(bytes);

/** Puts tokens together until they are whole characters. */
export class Grouper {
  #bytes = [];
  #tokens = [];

  add(tokens) {
    const made = [];
    for (const token of tokens) {
      if (token.bytes === null) { made.push(...this.end(), [token.name, [this.#entry(token)], 1]); continue; }
      this.#bytes.push(...token.bytes);
      this.#tokens.push(this.#entry(token));
      const bytes = new Uint8Array(this.#bytes), certain = new TextDecoder("utf-8", {ignoreBOM: true}).decode(bytes, {stream: true});
      if (certain === decode(bytes)) made.push([certain, this.#take()]); // no character is half there
    }
    return made;
  }

  end() {
    const text = decode(new Uint8Array(this.#bytes));
    return this.#tokens.length ? [[text, this.#take()]] : [];
  }

  #entry = ({name, bytes, logprob, top}) => [name === "\ufffd" && bytes ? bytes.map(b => b.toString(16).padStart(2, "0")).join(" ") : name, logprob, top];

  #take() {
    const tokens = this.#tokens;
    this.#bytes = []; this.#tokens = [];
    return tokens;
  }
}

/** Cuts groups to the text that is valid, where a stop string has cut it. */
export function fit(list, text) {
  const fitted = [];
  for (const [own, tokens, special] of list) {
    if (special) continue;
    if (!text) break;
    const taken = text.startsWith(own) ? own : text;
    fitted.push([taken, tokens]);
    text = text.slice(taken.length);
  }
  return text ? [...fitted, [text, []]] : fitted;
}

export function chip(group) {
  const [text, tokens, special] = group;
  const logprob = tokens.reduce((sum, token) => sum + (token[1] ?? 0), 0), known = tokens.some(token => token[1] !== null);
  const element = make("span", {className: special ? "t special" : "t"}, text);
  if (known) {
    element.style.setProperty("--doubt", Math.min(60, -logprob / Math.LN2 * 9).toFixed(0));
    if (logprob < Math.log(0.05)) element.classList.add("rare");
  }
  groups.set(element, group);
  return element;
}

export function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  return (share >= 10 ? share.toFixed(0) : share >= 0.1 ? share.toFixed(1) : "<0.1") + " %";
}

/** A name as it can be read: spaces and line ends are signs. */
export const visible = name => name.replace(/\n/g, "⏎").replace(/^ +$/, spaces => "␣".repeat(spaces.length)).replace(/\t/g, "⇥") || "∅";

function choices(name, logprob, top) {
  const rows = top.some(([other]) => other === name) ? top : [...top, [name, logprob]];
  return make("ol", {}, ...rows.map(([other, value]) => {
    const bar = make("span", {className: "bar", style: {width: Math.max(1, 100 * Math.exp(value)) + "%"}});
    return make("li", {className: other === name ? "own" : ""},
      make("span", {className: "name"}, visible(other)), bar, make("span", {className: "share"}, percent(value)));
  }));
}

function fill(group) {
  const parts = group[1].map(([name, logprob, top], i) => {
    if (logprob === null) return make("div", {}, make("b", {}, visible(name)), " ", both("前面什么都没有", "nothing before it"));
    const place = top.findIndex(([other]) => other === name) + 1;
    const rank = place ? both(`，第 ${place}`, `, no. ${place}`) : both(`，${top.length} 名以外`, `, beyond no. ${top.length}`);
    return make("div", {}, make("b", {}, visible(name)), " ", percent(logprob), ...(top.length ? [rank] : []),
      ...(top.length && !i ? [choices(name, logprob, top)] : [])); // later bytes of a character have no names worth a list
  });
  $("tip").replaceChildren(...(parts.length ? parts : [both("没有概率", "no probability")]));
}

let shown = null;
export function hideTip() {
  shown?.classList.remove("at");
  shown = null;
  $("tip").hidden = true;
}

function showTip(element) {
  hideTip();
  const tip = $("tip");
  shown = element;
  element.classList.add("at");
  fill(groups.get(element));
  tip.hidden = false;
  const at = element.getClientRects()[0] ?? element.getBoundingClientRect(), box = tip.getBoundingClientRect();
  const above = at.bottom + box.height + 8 > innerHeight && at.top > box.height + 8;
  tip.style.left = Math.max(8, Math.min(at.left, innerWidth - box.width - 8)) + "px";
  tip.style.top = Math.max(8, above ? at.top - box.height - 6 : at.bottom + 6) + "px";
}

/** Arrow keys go from token to token of `box`; `act(element)` is told of each. */
export function walk(box, act, leave = () => {}) {
  let at = -1;
  box.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity}[event.key], all = box.querySelectorAll(".t");
    if (event.key === "Escape") leave();
    if (!step || !all.length) return;
    event.preventDefault();
    at = Math.max(0, Math.min(all.length - 1, at + step));
    all[at].scrollIntoView({block: "nearest"});
    act(all[at]);
  });
  box.addEventListener("blur", () => leave());
}

/** Lets a box of tokens tell about them: under the pointer, at a touch, by arrow keys. */
export function explain(box) {
  Object.assign(box, {tabIndex: 0, role: "group"});
  Object.assign(box.dataset, {zh: "词元：用左右方向键看概率", en: "Tokens: left and right arrow keys tell probabilities"});
  box.ariaLabel = english() ? box.dataset.en : box.dataset.zh;
  const token = event => event.target.closest(".t");
  box.addEventListener("pointerover", event => { if (event.pointerType === "mouse" && token(event)) showTip(token(event)); });
  box.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") hideTip(); });
  box.addEventListener("click", event => {
    if (!token(event) || getSelection().toString()) return;
    event.stopPropagation();
    showTip(token(event));
  });
  walk(box, element => { showTip(element); $("said").textContent = $("tip").innerText; }, hideTip);
}

export function legend(box) {
  box.append(both("把握：", "Likelihood:"));
  for (const share of [0.9, 0.5, 0.1, 0.01])
    box.append(chip([share * 100 + " %", [["", Math.log(share), []]]]));
  box.append(both("指向或点一个词，看别的可能", "point at a word, or tap it, for its alternatives"));
}

document.addEventListener("click", hideTip);
document.addEventListener("scroll", hideTip, true);
