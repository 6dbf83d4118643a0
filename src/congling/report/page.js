"use strict";
// Language: Chinese first; ?lang=en or #lang=en opens the page in English; the button switches; nothing is remembered.
const root = document.documentElement;
if (/[?#&]lang=en\b/.test(location.search + location.hash)) root.lang = "en";
document.getElementById("language").addEventListener("click", () => { root.lang = root.lang === "en" ? "zh" : "en"; });

// Samples: the slider shows one moment of the training at a time.
for (const box of document.querySelectorAll(".frames")) {
  const frames = box.querySelectorAll(".frame"), slider = box.querySelector("input");
  if (!slider) continue;
  const show = () => frames.forEach((frame, i) => frame.classList.toggle("shown", i === +slider.value));
  box.classList.add("live");
  slider.addEventListener("input", show);
  show();
}

// Charts: the legend shows the values under the pointer, and the last ones when it leaves.
function figure(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  for (const [limit, unit, suffix] of [[1e9, 1e9, " G"], [1e6, 1e6, " M"], [1e4, 1e3, " k"]])
    if (size >= limit) return (size / unit < 100 ? +(value / unit).toPrecision(3) : Math.round(value / unit)) + suffix;
  return size < 1e-2 ? value.toExponential(2).replace(/\.?0+e/, "e") : String(+value.toPrecision(4));
}
function nearest(points, x) {
  return points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
}
function mark(group, name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  group.append(element);
}
for (const chart of document.querySelectorAll("[data-chart]")) {
  const data = JSON.parse(chart.dataset.chart), svg = chart.querySelector("svg"), cursor = chart.querySelector(".cursor");
  const [x0, x1, left, right] = data.x, [y0, y1, bottom, top] = data.y;
  const outputs = chart.querySelectorAll(".legend b"), last = [...outputs].map(o => o.textContent);
  const share = (value, low, high) => data.log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  const longest = data.series.reduce((a, b) => (b.length > a.length ? b : a));
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const x = nearest(longest, x0 + (at - left) / (right - left) * (x1 - x0))[0];
    const px = left + (x - x0) / (x1 - x0) * (right - left);
    cursor.replaceChildren();
    mark(cursor, "line", {class: "rule", x1: px, x2: px, y1: top, y2: bottom});
    data.series.forEach((points, i) => {
      const [own, value] = nearest(points, x); // rows of one line may lie further apart than those of another
      outputs[i].textContent = figure(value);
      const cx = left + (own - x0) / (x1 - x0) * (right - left), cy = bottom + share(value, y0, y1) * (top - bottom);
      mark(cursor, "circle", {class: "dot s" + i, r: 4, cx, cy});
    });
    outputs[outputs.length - 1].textContent = figure(x);
  });
  svg.addEventListener("pointerleave", () => { cursor.replaceChildren(); outputs.forEach((o, i) => { o.textContent = last[i]; }); });
}

// Tokens: what is said of one opens to the side where there is room.
for (const kind of ["pointerover", "focusin"])
  document.addEventListener(kind, event => {
    const chip = event.target.closest("[data-id]");
    if (chip) chip.classList.toggle("end", chip.getBoundingClientRect().left > innerWidth / 2);
  });
