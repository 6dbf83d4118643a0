// Conversations, each under a key of its own in the browser, so that two tabs do not write over each other.
import { kept } from "./dom.js";

const PREFIX = "congling.chat.";

export const fresh = () => ({id: Date.now().toString(36) + Math.random().toString(36).slice(2, 6), name: "", when: Date.now(), skip: 0, messages: []});

export function load(id) {
  try {
    const found = JSON.parse(kept.get(PREFIX + id));
    return found && Array.isArray(found.messages) ? {...fresh(), ...found, id} : null;
  } catch { return null; }
}

/** All, the latest first. */
export function all() {
  const ids = kept.keys().filter(key => key.startsWith(PREFIX)).map(key => key.slice(PREFIX.length));
  return ids.map(load).filter(Boolean).sort((a, b) => b.when - a.when);
}

const plain = chat => ({...chat, messages: chat.messages.map(({groups, ...message}) => message)});
const write = chat => kept.set(PREFIX + chat.id, JSON.stringify(chat));

/** Keeps a conversation. When the browser's room is full, the oldest others lose their probabilities first. */
export function save(chat) {
  if (write(chat)) return;
  for (const old of all().reverse()) {
    if (old.id === chat.id) continue;
    write(plain(old));
    if (write(chat)) return;
  }
  write(plain(chat));
}

export const remove = id => kept.drop(PREFIX + id);
export const title = chat => chat.name || chat.messages.find(message => message.role === "user")?.content.slice(0, 30) || "…";
export const exported = () => JSON.stringify(all().map(plain).map(({skip, ...chat}) => chat), null, 1);
