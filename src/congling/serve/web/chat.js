// The conversation: messages on the page, the answer under way, the history.
import { notice, Problem, stream } from "./api.js";
import { $, both, button, download, english, facts, grow, kept, make, say, translate } from "./dom.js";
import { sampling, settings } from "./settings.js";
import { all, exported, fresh, load, remove, save, title } from "./store.js";
import { chip, explain, fit, Grouper, ofChat, TOP_LOGPROBS } from "./tokens.js";

const log = $("log"), LAST = "congling.last";
const EXAMPLES = ["一心一意是什么意思？", "写一首关于秋天的诗。", "为什么天是蓝的？"];
let chat = load(kept.get(LAST)) ?? fresh(), running = null;
let look = () => {};

// -- what is shown -----------------------------------------------------------------------------------------------------

function hint() {
  if (!facts.chat) {
    const go = button("去续写", "Go to continuation", () => $("tab-write").click());
    return make("div", {className: "hint"}, make("b", {}, both("基础模型，还没学过对话", "A base model: it has not learned to chat")),
      both("它只会把一段文字接着写下去。", "It can only go on from a text."), go);
  }
  const examples = EXAMPLES.map(text => make("button", {type: "button", onclick: () => send(text)}, text));
  return make("div", {className: "hint"}, make("b", {}, both("说点什么吧", "Say something")), ...examples);
}

function bubble(message, index) {
  const box = make("div", {className: "tokens"}), body = make("div", {className: "body"}, box);
  const acts = make("div", {className: "acts"});
  if (message.role === "assistant" && message.groups) {
    box.append(...message.groups.map(chip));
    explain(box);
  } else box.textContent = message.content;
  const whose = message.role === "user" ? ["我", "Me"] : ["模型", "The model"];
  const who = make("span", {className: "unseen"}, both(whose[0] + "：", whose[1] + ": "));
  const element = make("article", {className: `m ${message.role}${index < chat.skip ? " old" : ""}`}, who, body, acts);
  if (message.role === "assistant") fillActs(acts, message, index);
  return element;
}

function fillActs(acts, message, index) {
  const copy = button("复制", "Copy", () => navigator.clipboard?.writeText(message.content).then(() => say(english() ? "copied" : "已复制")));
  const eye = button("看注意力", "Attention", () => look({messages: sent(index + 1)}));
  acts.replaceChildren(copy, eye);
  if (index === chat.messages.length - 1) acts.prepend(button("重新生成", "Regenerate", regenerate));
  if (message.finish === "length") acts.append(make("span", {}, both("· 到了最大长度", "· longest answer reached")));
  if (message.finish === "stopped") acts.append(make("span", {}, both("· 已停止", "· stopped")));
}

function show() {
  log.replaceChildren(...(chat.messages.length ? chat.messages.map(bubble) : [hint()]));
  log.scrollTop = log.scrollHeight;
  const last = chat.messages.at(-1);
  if (last?.role === "user" && !running) log.append(make("div", {className: "acts again"}, button("让模型回答", "Let the model answer", () => answer())));
  showHistory();
}

function busy(on) {
  $("send").hidden = on;
  $("stop").hidden = !on;
}

// -- asking ------------------------------------------------------------------------------------------------------------

/** Messages as they go to the server, up to but without number `end`. */
function sent(end = chat.messages.length) {
  const system = settings.system.trim() ? [{role: "system", content: settings.system.trim()}] : [];
  return [...system, ...chat.messages.slice(chat.skip, end).map(({role, content}) => ({role, content}))];
}

function send(text) {
  if (!text.trim() || running || !facts.chat) return;
  if (chat.messages.at(-1)?.role === "user") chat.messages.pop(); // its answer never came: said anew
  chat.messages.push({role: "user", content: text.trim()});
  store();
  answer();
}

function regenerate() {
  if (running) return;
  answer(chat.messages.at(-1)?.role === "assistant" ? chat.messages.pop() : null);
}

function store() {
  chat.when = Date.now();
  save(chat);
  kept.set(LAST, chat.id);
}

/** Asks for the next message; `before` is the one that it takes the place of, and comes back when there is none. */
async function answer(before = null) {
  if (running) return;
  const own = chat, mine = running = new AbortController(), body = {messages: sent(), ...sampling(), logprobs: true, top_logprobs: TOP_LOGPROBS};
  const message = {role: "assistant", content: "", groups: [], finish: null};
  busy(true);
  show();
  const box = make("div", {className: "tokens waiting"}), element = make("div", {className: "body growing"}, box);
  explain(box);
  log.append(make("article", {className: "m assistant"}, element));
  log.scrollTop = log.scrollHeight;
  const error = await read(body, message, box, mine.signal);
  running = null;
  busy(false);
  if (message.content) {
    message.groups = fit(message.groups, message.content);
    own.messages.push(message);
  } else if (before) own.messages.push(before);
  save(own);
  if (own !== chat) return showHistory();
  show();
  if (error) {
    log.querySelector(".again")?.remove();
    log.append(notice(error, ...wayOut(error)));
  } else say(message.content);
  log.scrollTop = log.scrollHeight;
}

/** Reads the answer into `message` and `box`; returns the error that ended it, or null. */
async function read(body, message, box, signal) {
  const grouper = new Grouper(), put = list => { message.groups.push(...list); box.append(...list.filter(group => !group[2]).map(chip)); };
  try {
    for await (const part of stream("v1/chat/completions", body, signal)) {
      const choice = part.choices[0];
      if (!choice) continue;
      message.content += choice.delta.content ?? "";
      message.finish = choice.finish_reason ?? message.finish;
      const follow = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
      if (choice.logprobs?.content?.length) { put(grouper.add(ofChat(choice.logprobs.content))); box.classList.remove("waiting"); }
      if (follow) log.scrollTop = log.scrollHeight;
    }
    return message.content ? null : new Problem("模型什么也没说。", "The model said nothing.");
  } catch (error) {
    message.finish = "stopped";
    return error.name === "AbortError" ? null : error;
  } finally {
    put(grouper.end());
  }
}

function wayOut(error) {
  if (error.code !== "long") return [button("再试一次", "Try again", regenerate)];
  if (chat.messages.length - chat.skip < 3) { // back into the field, to be made shorter
    if (chat.messages.at(-1)?.role === "user") $("chat-text").value = chat.messages.at(-1).content;
    return [];
  }
  return [button("忘掉最早的几轮再试", "Forget the oldest turns and try again", () => {
    const half = Math.ceil((chat.messages.length - chat.skip) / 2);
    chat.skip += half + (chat.messages[chat.skip + half]?.role === "assistant" ? 1 : 0);
    chat.skip = Math.min(chat.skip, chat.messages.length - 1);
    regenerate();
  })];
}

// -- history -----------------------------------------------------------------------------------------------------------

function showHistory() {
  $("list").replaceChildren(...all().map(one => {
    const name = make("button", {type: "button", className: "name", title: title(one), onclick: () => open(one)}, title(one));
    const entry = make("li", {className: one.id === chat.id ? "here" : ""}, name,
      button("改名", "Rename", () => rename(one, entry), "✎"), button("导出", "Export", () => download(`${one.id}.json`, JSON.stringify(one, null, 1)), "↓"),
      button("删除", "Delete", () => drop(one), "✕"));
    if (one.id === chat.id) name.setAttribute("aria-current", "true");
    return entry;
  }));
}

function open(one) {
  running?.abort();
  chat = load(one.id) ?? one;
  kept.set(LAST, chat.id);
  $("tab-chat").click();
  show();
  if (matchMedia("(max-width: 60rem)").matches && !$("history").hidden) $("history-close").click();
}

function rename(one, entry) {
  const field = make("input", {value: title(one), maxLength: 60, ariaLabel: english() ? "new name" : "新名字"});
  const done = keep => {
    field.onblur = null;
    const changed = one.id === chat.id ? chat : one;
    if (keep) { changed.name = field.value.trim(); save(changed); }
    showHistory();
  };
  field.onkeydown = event => { if (event.key === "Enter" && !event.isComposing) done(true); if (event.key === "Escape") done(false); };
  field.onblur = () => done(true);
  entry.replaceChildren(field);
  field.select();
}

function drop(one) {
  if (!confirm(english() ? `Delete “${title(one)}”?` : `删除“${title(one)}”？`)) return;
  remove(one.id);
  if (one.id === chat.id) { running?.abort(); chat = fresh(); show(); }
  else showHistory();
}

function wipe() {
  if (!confirm(english() ? "Delete all conversations?" : "删除全部对话？")) return;
  running?.abort();
  for (const one of all()) remove(one.id);
  chat = fresh();
  show();
}

// -- controls ----------------------------------------------------------------------------------------------------------

export function start(onLook) {
  look = onLook;
  const text = $("chat-text");
  text.disabled = $("send").disabled = !facts.chat;
  text.addEventListener("input", () => grow(text));
  text.addEventListener("keydown", event => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("chat-form").requestSubmit();
  });
  $("chat-form").addEventListener("submit", event => {
    event.preventDefault();
    if (running || !text.value.trim()) return;
    send(text.value);
    text.value = "";
    grow(text);
  });
  $("stop").addEventListener("click", () => { running?.abort(); text.focus(); });
  $("new").addEventListener("click", () => { open(fresh()); text.focus(); });
  $("export").addEventListener("click", () => download("congling.json", exported()));
  $("wipe").addEventListener("click", wipe);
  show();
  translate();
}
