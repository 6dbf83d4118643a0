// Starts the page: language, theme, panels, tabs.
import { forgetKey } from "./api.js";
import * as attention from "./attention.js";
import * as chat from "./chat.js";
import { $, english, facts, grow, kept, translate } from "./dom.js";
import { hideTip, legend } from "./tokens.js";
import * as write from "./write.js";

const root = document.documentElement, LANGUAGE = "congling.language", THEME = "congling.theme";

// Chinese first; ?lang=en opens the page in English; what was chosen last is remembered.
root.lang = /[?#&]lang=en\b/.test(location.search + location.hash) || kept.get(LANGUAGE) === "en" ? "en" : "zh";
$("language").addEventListener("click", () => {
  root.lang = english() ? "zh" : "en";
  kept.set(LANGUAGE, root.lang);
  translate();
});

const dark = matchMedia("(prefers-color-scheme: dark)");
function paint() {
  root.dataset.theme = kept.get(THEME) ?? (dark.matches ? "dark" : "light");
  dispatchEvent(new Event("congling-theme"));
}
dark.addEventListener("change", paint);
$("theme").addEventListener("click", () => { kept.set(THEME, root.dataset.theme === "dark" ? "light" : "dark"); paint(); });

const narrow = matchMedia("(max-width: 60rem)");
function panel(name, open) {
  $(name).hidden = !open;
  $(name + "-button").setAttribute("aria-expanded", open);
}
for (const [name, other] of [["history", "settings"], ["settings", "history"]]) {
  $(name + "-button").addEventListener("click", event => {
    event.stopPropagation();
    panel(name, $(name).hidden);
    if (narrow.matches) panel(other, false);
    if (!$(name).hidden) $(name + "-close").focus();
  });
  $(name + "-close").addEventListener("click", () => { panel(name, false); $(name + "-button").focus(); });
  $(name).addEventListener("keydown", event => { if (event.key === "Escape" && event.target.tagName !== "INPUT") $(name + "-close").click(); });
}
document.querySelector("main").addEventListener("pointerdown", () => { if (narrow.matches) { panel("history", false); panel("settings", false); } });
addEventListener("keydown", event => { if (event.key === "Escape") hideTip(); });

const TABS = ["chat", "write", "look"];
function open(name) {
  hideTip();
  for (const tab of TABS) {
    const here = tab === name, handle = $("tab-" + tab);
    handle.setAttribute("aria-selected", here);
    handle.tabIndex = here ? 0 : -1;
    $(tab).hidden = !here;
  }
  for (const area of $(name).querySelectorAll("textarea")) grow(area);
}
for (const name of TABS) $("tab-" + name).addEventListener("click", () => open(name));
$("tabs").addEventListener("keydown", event => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (!step) return;
  const at = TABS.findIndex(name => !$(name).hidden), next = TABS[(at + step + TABS.length) % TABS.length];
  open(next);
  $("tab-" + next).focus();
});

paint();
$("forget-key").addEventListener("click", forgetKey);
for (const box of ["chat-legend", "write-legend"]) legend($(box));
write.start(attention.look);
attention.start();
chat.start(attention.look);
open(facts.chat ? "chat" : "write");
if (facts.chat && !narrow.matches) $("chat-text").focus();
if (matchMedia("(min-width: 75rem)").matches) panel("history", true);
