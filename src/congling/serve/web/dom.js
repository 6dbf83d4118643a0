// Small helpers: elements, and texts in two languages that switch without being made again.
export const $ = id => document.getElementById(id);
export const facts = JSON.parse(document.body.dataset.facts);

/** An element; properties by name, `data` and `style` as objects, children as elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "data") Object.assign(element.dataset, value);
    else if (key === "style") for (const [name, v] of Object.entries(value)) element.style.setProperty(name, v);
    else if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

export function both(zh, en) {
  const parts = document.createDocumentFragment();
  parts.append(make("span", {lang: "zh"}, zh), make("span", {lang: "en"}, en));
  return parts;
}

export const english = () => document.documentElement.lang === "en";

/** Names of controls for those who do not see them (data-zh, data-en), and hints of empty fields. */
export function translate(root = document) {
  const which = english() ? "en" : "zh";
  for (const element of root.querySelectorAll("[data-zh]")) {
    element.setAttribute("aria-label", element.dataset[which]);
    if (element.tagName === "BUTTON") element.title = element.dataset[which];
  }
  for (const element of root.querySelectorAll("[data-hint-zh]"))
    element.placeholder = element.dataset[which === "en" ? "hintEn" : "hintZh"];
}

/** A button whose face is a sign, or text in two languages. */
export function button(zh, en, act, sign = "") {
  const element = make("button", {type: "button", onclick: act, data: sign ? {zh, en} : {}}, sign || both(zh, en));
  if (sign) { element.className = "icon"; element.title = element.ariaLabel = english() ? en : zh; }
  return element;
}

/** Said to screen readers. */
export const say = text => { $("said").textContent = text; };

/** What this browser keeps; where it keeps nothing (private windows), until the page is closed. */
const spare = new Map();
export const kept = {
  get(key) { try { return localStorage.getItem(key) ?? spare.get(key) ?? null; } catch { return spare.get(key) ?? null; } },
  set(key, value) { try { localStorage.setItem(key, value); spare.delete(key); return true; } catch { spare.set(key, value); return false; } },
  drop(key) { spare.delete(key); try { localStorage.removeItem(key); } catch { /* nothing there */ } },
  keys() { try { return [...new Set([...Object.keys(localStorage), ...spare.keys()])]; } catch { return [...spare.keys()]; } },
};

/** A file for the user. */
export function download(name, text) {
  const link = make("a", {href: URL.createObjectURL(new Blob([text], {type: "application/json"})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** A text field as high as its text. */
export function grow(area) {
  area.style.height = "auto";
  area.style.height = area.scrollHeight + 2 + "px";
}
