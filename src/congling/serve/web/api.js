// The server: OpenAI's API and /inspect. The key is asked for when the server wants one, and kept for this tab alone.
import { $, both, make } from "./dom.js";

const KEY = "congling.key";
let spare = "";
const key = () => { try { return sessionStorage.getItem(KEY) ?? spare; } catch { return spare; } };
function keep(value) {
  spare = value;
  try { value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY); } catch { /* spare has it */ }
  $("forget-key").hidden = !value;
}
export const forgetKey = () => keep("");
$("forget-key").hidden = !key();

/** Why there is no answer: for people in two languages, and what the server said. */
export class Problem extends Error {
  constructor(zh, en, detail = "", code = "") {
    super(en);
    Object.assign(this, {zh, en, detail, code});
  }
}

async function problem(reply) {
  const error = (await reply.json().catch(() => null))?.error ?? {};
  const detail = error.message ?? `HTTP ${reply.status}`, wait = reply.headers.get("Retry-After");
  if (reply.status === 401) return new Problem("没有密钥，服务器不回答。", "Without a key the server does not answer.", "", "key");
  if (reply.status === 429)
    return new Problem(`服务器正忙，请 ${wait ?? "几"} 秒后再试。`, `The server is busy: try again in ${wait ?? "a few"} s.`, detail);
  if (error.code === "context_length_exceeded") return new Problem("太长了，模型看不下。", "Too long for the model.", detail, "long");
  if (reply.status === 413) return new Problem("太长了，服务器不收。", "Too long for the server.", detail, "long");
  if (reply.status >= 500) return new Problem("服务器出了问题。", "The server has a problem.", detail);
  return new Problem("服务器拒绝了这个请求。", "The server refused the request.", detail);
}

function askKey(wrong) {
  const dialog = $("key-dialog");
  $("key-wrong").hidden = !wrong;
  $("key").value = "";
  dialog.showModal();
  return new Promise(resolve => {
    const done = value => { dialog.onclose = $("key-form").onsubmit = null; dialog.close(); resolve(value); };
    $("key-form").onsubmit = event => { event.preventDefault(); done($("key").value.trim()); };
    $("key-cancel").onclick = () => done("");
    dialog.onclose = () => done("");
  });
}

async function post(path, body, signal) {
  for (let tried = Boolean(key()); ; tried = true) {
    const headers = {"Content-Type": "application/json"};
    if (key()) headers.Authorization = "Bearer " + key();
    const reply = await fetch(path, {method: "POST", headers, body: JSON.stringify(body), signal}).catch(error => {
      throw error.name === "AbortError" ? error : new Problem("连不上服务器。它还开着吗？", "The server cannot be reached. Is it still running?");
    });
    if (reply.ok) return reply;
    if (reply.status !== 401) throw await problem(reply);
    const given = await askKey(tried && Boolean(key()));
    if (!/^[\x21-\x7e]*$/.test(given)) continue; // no header can hold it
    keep(given);
    if (!given) throw await problem(reply);
  }
}

export async function ask(path, body, signal) {
  return (await post(path, body, signal)).json();
}

/** The parts of a streamed answer, one by one. Raises Problem when it breaks off. */
export async function* stream(path, body, signal) {
  const reader = (await post(path, {...body, stream: true}, signal)).body.getReader(), decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) throw new Problem("回答中断了。", "The answer broke off.");
      const lines = (rest + decoder.decode(value, {stream: true})).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line === "data: [DONE]") return;
        if (!line.startsWith("data: ")) continue;
        const part = JSON.parse(line.slice(6));
        if (part.error) throw new Problem("回答中断了。", "The answer broke off.", part.error.message);
        yield part;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
    throw new Problem("连接断了，回答没有完。", "The connection is lost, the answer unfinished.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What is shown of an error; the actions are buttons. */
export function notice(error, ...actions) {
  const known = error instanceof Problem ? error : new Problem("页面出错了。", "The page made a mistake.", String(error));
  const text = make("span", {}, both(known.zh, known.en));
  return make("div", {className: "notice", role: "alert"}, text, ...actions, ...(known.detail ? [make("small", {}, known.detail)] : []));
}
