// Where the heads look: how far on average, one head token by token and as a matrix, and what distance does to scores.
import { ask, notice } from "./api.js";
import { $, both, button, facts, grow, make } from "./dom.js";
import { ofChat, visible, walk } from "./tokens.js";

const SAMPLE = "小猫追着小狗跑，小狗追着小猫跑。";
let subject = {text: ""}, seen = null, chips = [], chosen = -1, serial = 0;

const share = (query, key) => seen.shares[query * seen.tokens.length + key] / 255;
const figure = value => (value >= 100 ? value.toFixed(0) : value.toFixed(1));

async function run(layer = seen?.layer ?? 0, head = seen?.head ?? 0) {
  const mine = ++serial;
  $("look-state").replaceChildren(both("正在看……", "Looking …"));
  $("look-go").disabled = true;
  try {
    const answer = await ask("inspect", {...subject, layer, head});
    if (mine !== serial) return;
    seen = {...answer, shares: Uint8Array.from(atob(answer.weights), c => c.charCodeAt(0))};
    $("look-state").replaceChildren(both(`${seen.tokens.length} 个词元`, `${seen.tokens.length} tokens`));
    $("look-out").hidden = false;
    show();
  } catch (error) {
    if (mine === serial) $("look-state").replaceChildren(notice(error));
  } finally {
    if (mine === serial) $("look-go").disabled = false;
  }
}

function show() {
  const {layer, head} = seen;
  showHeads();
  $("head-title").replaceChildren(both(`第 ${layer + 1} 层第 ${head + 1} 头`, `Layer ${layer + 1}, head ${head + 1}`));
  const [far, own, before, first] = ["distance", "own", "before", "first"].map(name => seen[name][layer][head]);
  const parts = [own, before, first].map(value => (100 * value).toFixed(0) + " %");
  $("head-figures").replaceChildren(both(
    `平均往回看 ${figure(far)} 个词元；看自己 ${parts[0]}，看前一个 ${parts[1]}，看最开头 ${parts[2]}。`,
    `Looks back ${figure(far)} tokens on average; at itself ${parts[0]}, at the token before ${parts[1]}, at the very first ${parts[2]}.`));
  showTokens();
  showMatrix();
  showCurves();
}

function showHeads() {
  const farthest = Math.max(...seen.distance.flat(), 1e-9), focused = document.activeElement?.closest("#heads button");
  const heads = seen.distance[0].map((_, i) => make("th", {scope: "col"}, both(`头 ${i + 1}`, `head ${i + 1}`)));
  const rows = seen.distance.map((row, l) => {
    const cells = row.map((value, h) => {
      const far = 90 * value / farthest, pressed = l === seen.layer && h === seen.head;
      const cell = make("button", {type: "button", className: far > 62 ? "deep" : "", style: {"--far": far.toFixed(0)}, onclick: () => run(l, h)}, figure(value));
      cell.setAttribute("aria-pressed", pressed);
      return make("td", {}, cell);
    });
    return make("tr", {}, make("th", {scope: "row"}, both(`第 ${l + 1} 层`, `layer ${l + 1}`)), ...cells);
  });
  $("heads").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, make("td"), ...heads)), make("tbody", {}, ...rows)));
  if (focused) $("heads").querySelector("[aria-pressed=true]").focus();
}

// -- one head ----------------------------------------------------------------------------------------------------------

function showTokens() {
  chips = ofChat(seen.tokens).map(({name, bytes}, i) => {
    const whole = name !== "\ufffd", text = whole ? (bytes === null ? name : name) : bytes.map(b => b.toString(16)).join(" ");
    return make("span", {className: bytes === null || !whole ? "t special" : "t", data: {place: i}}, text);
  });
  $("look-tokens").replaceChildren(...chips);
  choose(chosen >= 0 && chosen < chips.length ? chosen : chips.length - 1);
}

function choose(place) {
  chosen = place;
  const most = Math.max(...chips.slice(0, place + 1).map((_, key) => share(place, key)), 0.01);
  chips.forEach((chip, key) => {
    chip.classList.toggle("at", key === place);
    chip.style.setProperty("--share", key > place ? 0 : (80 * share(place, key) / most).toFixed(0));
  });
  const name = key => `“${visible(chips[key].textContent)}”`;
  const best = chips.slice(0, place + 1).map((_, key) => key).sort((a, b) => share(place, b) - share(place, a)).slice(0, 5).filter(key => share(place, key) >= 0.01);
  const list = best.map(key => `${name(key)} ${(100 * share(place, key)).toFixed(0)} %`).join("  ");
  $("look-at").replaceChildren(both(`${name(place)} 看：${list}`, `${name(place)} looks at: ${list}`));
}

function showMatrix() {
  const canvas = $("matrix"), count = seen.tokens.length, context = canvas.getContext("2d");
  canvas.width = canvas.height = count;
  const image = context.createImageData(count, count), style = getComputedStyle(document.documentElement);
  const parse = name => [1, 3, 5].map(i => parseInt(style.getPropertyValue(name).trim().padEnd(7, "f").slice(i, i + 2), 16));
  const low = parse("--soft"), high = parse("--high");
  for (let i = 0; i < count * count; i++) {
    const part = Math.sqrt(seen.shares[i] / 255), future = i % count > Math.floor(i / count);
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = low[c] + (high[c] - low[c]) * part;
    image.data[4 * i + 3] = future ? 0 : 255;
  }
  context.putImageData(image, 0, 0);
}

function pointAt(event) {
  if (!seen) return;
  const box = $("matrix").getBoundingClientRect(), count = seen.tokens.length;
  const place = value => Math.max(0, Math.min(count - 1, Math.floor(value * count)));
  const key = place((event.clientX - box.left) / box.width), query = place((event.clientY - box.top) / box.height);
  if (query !== chosen) choose(query);
  const name = i => `“${visible(chips[i].textContent)}”`;
  $("matrix-at").textContent = key > query ? " " : `${name(query)} → ${name(key)}  ${(100 * share(query, key)).toFixed(1)} %`;
}

// -- learned decay -----------------------------------------------------------------------------------------------------

const METHODS = {
  rope: ["旋转位置：距离藏在向量的角度里，没有衰减曲线。", "Rotary positions: distance is in the angles of the vectors, there is no curve."],
  sinusoidal: ["正弦位置加在词向量上，没有衰减曲线。", "Sinusoidal positions are added to the embeddings: there is no curve."],
  learned: ["学来的位置加在词向量上，没有衰减曲线。", "Learned positions are added to the embeddings: there is no curve."],
  none: ["这个模型没有位置信息，没有衰减曲线。", "This model has no positions: there is no curve."],
};

function shape(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

/** Which curves there are: [values, layer, head or -1 when all heads share it]. */
function curves(which) {
  return seen.decay.flatMap((one, layer) => (one[which] ?? []).map((values, head, all) => [values, layer, all.length > 1 ? head : -1]));
}

function showCurves() {
  const factors = seen.decay.some(one => one[0]), lines = curves(factors ? 0 : 1), svg = shape("svg", {viewBox: "0 0 400 300", role: "img"});
  $("decay-title").replaceChildren(factors
    ? both("学到的衰减：分数乘上多少", "Learned decay: what scores are multiplied with")
    : lines.length ? both("距离：分数加上多少", "Distance: what is added to scores") : both("距离", "Distance"));
  const method = METHODS[seen.position];
  if (!lines.length) {
    $("curves").replaceChildren();
    return $("decay-text").replaceChildren(both(...(method ?? METHODS.none)));
  }
  const far = seen.distances.at(-1), values = lines.flatMap(line => line[0]), bottom = factors ? 0 : Math.max(-20, Math.min(...values)), top = factors ? 1 : 0;
  const x = distance => 40 + 350 * Math.log1p(distance) / Math.log1p(far), y = value => 270 - 255 * (Math.max(value, bottom) - bottom) / (top - bottom || 1);
  for (const at of [0, 0.25, 0.5, 0.75, 1].map(part => bottom + (top - bottom) * part))
    svg.append(shape("line", {class: "grid", x1: 40, x2: 390, y1: y(at), y2: y(at)}), shape("text", {x: 34, y: y(at) + 4, "text-anchor": "end"}, String(+at.toFixed(2))));
  for (const at of [0, 1, 4, 16, 64, 256]) svg.append(shape("text", {x: x(at), y: 288, "text-anchor": "middle"}, String(at)));
  const rank = ([, layer, head]) => (layer !== seen.layer ? 0 : head < 0 || head === seen.head ? 2 : 1);
  for (const line of [...lines].sort((a, b) => rank(a) - rank(b)))
    svg.append(shape("path", {class: ["curve", "curve here", "curve chosen"][rank(line)], d: line[0].map((value, i) => `${i ? "L" : "M"}${x(seen.distances[i]).toFixed(1)} ${y(value).toFixed(1)}`).join("")}));
  $("curves").replaceChildren(svg);
  const extra = factors && seen.decay[seen.layer][1] ? seen.decay[seen.layer][1].at(seen.decay[seen.layer][1].length > 1 ? seen.head : 0)[1] : 0;
  $("decay-text").replaceChildren(both(
    `横轴是距离（词元，对数）。红：这个头；蓝：同层的头；灰：别的层。${extra ? `不看自己还要加 ${extra.toFixed(2)}。` : ""}`,
    `Across: distance (tokens, logarithmic). Red: this head; blue: its layer; grey: other layers.${extra ? ` Looking past itself adds ${extra.toFixed(2)}.` : ""}`));
}

// -- controls ----------------------------------------------------------------------------------------------------------

/** Looks at a text, or at a conversation. */
export function look(what) {
  subject = what;
  $("tab-look").click();
  $("look-text").value = what.text ?? what.messages.map(message => message.content).join("\n");
  grow($("look-text"));
  chosen = -1;
  run();
}

export function start() {
  const text = $("look-text");
  text.value = SAMPLE;
  text.addEventListener("input", () => { subject = {text: text.value}; grow(text); });
  text.addEventListener("keydown", event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("look-go").click(); } });
  subject = {text: SAMPLE};
  $("look-go").addEventListener("click", () => { chosen = -1; run(); });
  const place = element => element?.closest("[data-place]")?.dataset.place;
  $("look-tokens").addEventListener("click", event => { if (place(event.target)) choose(+place(event.target)); });
  $("look-tokens").addEventListener("pointerover", event => { if (event.pointerType === "mouse" && place(event.target)) choose(+place(event.target)); });
  walk($("look-tokens"), element => choose(+element.dataset.place));
  $("matrix").addEventListener("pointermove", pointAt);
  $("matrix").addEventListener("pointerdown", pointAt);
  addEventListener("congling-theme", () => { if (seen) showMatrix(); });
}
