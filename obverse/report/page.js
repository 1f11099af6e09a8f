"use strict";
(() => {
const byId = (id) => document.getElementById(id);
const make = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};

// Light or dark: the reader's choice, or the system's setting.
const root = document.documentElement, theme = byId("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const remembered = () => { try { return localStorage.getItem("obverse-theme"); } catch { return null; } };
const paint = (name) => { if (name) root.dataset.theme = name; };
paint(remembered());
theme.hidden = false;
theme.addEventListener("click", () => {
  const current = root.dataset.theme || (dark.matches ? "dark" : "light");
  paint(current === "dark" ? "light" : "dark");
  try { localStorage.setItem("obverse-theme", root.dataset.theme); } catch { /* without storage the choice is not kept */ }
});

// The values at the pointer, computed from the drawn curves.
const readout = byId("readout");
const short = (value, percent) => percent ? `${(100 * value).toFixed(1)}%` :
  Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4));
const points = (line) => [...line.getAttribute("d").matchAll(/[ML]([-\d.]+),([-\d.]+)/g)].map((m) => [+m[1], +m[2]]);
document.querySelectorAll("svg.chart[data-kind=lines]").forEach((svg) => {
  const [left, top, width, height] = svg.dataset.frame.split(" ").map(Number);
  const [x0, x1] = svg.dataset.x.split(" ").map(Number), [y0, y1] = svg.dataset.y.split(" ").map(Number);
  const across = (x) => {
    const share = (x - left) / width;
    return "log" in svg.dataset ? 2 ** (Math.log2(x0) + share * Math.log2(x1 / x0)) : x0 + share * (x1 - x0);
  };
  let curves;
  svg.addEventListener("pointermove", (event) => {
    curves ||= [...svg.querySelectorAll(".line[data-name]")].map((line) => [line.dataset.name, points(line)]);
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const rows = [];
    let nearest;
    for (const [name, curve] of curves) {
      if (!curve.length) continue;
      const near = curve.reduce((best, p) => Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best);
      if (Math.abs(near[0] - x) > 40) continue;
      nearest = near[0];
      rows.push(`${name} ${short(y0 + (1 - (near[1] - top) / height) * (y1 - y0), "percent" in svg.dataset)}`);
    }
    readout.hidden = !rows.length;
    if (!rows.length) return;
    readout.textContent = [`at ${short(across(nearest))}`, ...rows].join("\n");
    readout.style.left = `${Math.min(event.clientX + 14, innerWidth - readout.offsetWidth - 8)}px`;
    readout.style.top = `${event.clientY + 14}px`;
  });
  svg.addEventListener("pointerleave", () => { readout.hidden = true; });
});

// The browser of completions. Texts of models are only assigned to textContent.
const data = JSON.parse(byId("data").textContent);
if (!data.groups.length) return;
const PAGE = 100, filters = byId("filters"), list = byId("list"), field = filters.elements;
const all = data.groups.flatMap((group) => group.samples.map((sample, number) => ({group, sample, number})));
let matches = [], chosen = 0;
byId("browser").hidden = false;

const offer = (select, values, label = String) => values.forEach((value) => {
  const option = make("option", label(value));
  option.value = value;
  select.append(option);
});
const distinct = (values) => [...new Set(values)];
offer(field.run, data.runs.map((_, number) => number), (number) => data.runs[number]);
document.querySelector("[data-filter=run]").hidden = data.runs.length < 2;
offer(field.step, distinct(data.groups.map((group) => group.step)).sort((a, b) => a - b));
offer(field.kind, distinct(all.map(({sample}) => sample.kind)));

const fits = ({group, sample}) => {
  const text = field.text.value.toLowerCase();
  return (field.run.value === "" || group.run === +field.run.value) &&
    (field.step.value === "" || group.step === +field.step.value) &&
    (field.kind.value === "" || sample.kind === field.kind.value) &&
    (field.grade.value === "" || sample.correct === (field.grade.value === "correct")) &&
    (field.low.value === "" || sample.reward >= +field.low.value) &&
    (field.high.value === "" || sample.reward <= +field.high.value) &&
    (!field.cut.checked || sample.cut) && (!field.kept.checked || sample.kept) &&
    (!text || [group.problem, group.prompt, sample.text].some((part) => part.toLowerCase().includes(text)));
};
const signed = (value) => value === null ? "none" : (value > 0 ? "+" : "") + value;
const grade = (sample) => sample.correct === null ? "not graded" : sample.correct ? "correct" : "wrong";
const tone = (sample) => sample.correct === null ? "" : sample.correct ? "correct" : "wrong";
const isDemonstration = (sample) => sample.kind === "demonstration";

const search = () => {
  matches = all.filter(fits);
  chosen = 0;
  byId("count").textContent = `${matches.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} completions`;
  showPage();
};
const showPage = () => {
  const first = Math.floor(chosen / PAGE) * PAGE, last = Math.min(first + PAGE, matches.length);
  list.replaceChildren(...matches.slice(first, last).map(({group, sample}, offset) => {
    const item = make("li");
    item.id = `item-${first + offset}`;
    item.setAttribute("role", "option");
    item.append(make("b", group.problem));
    item.append(make("span", isDemonstration(sample) ? "demonstration" : grade(sample), isDemonstration(sample) ? "shown" : tone(sample)));
    item.append(`, reward ${sample.reward}, step ${group.step}${sample.cut ? ", cut off" : ""}`);
    item.addEventListener("click", () => choose(first + offset));
    return item;
  }));
  byId("page").textContent = matches.length ? `${first + 1} to ${last}` : "";
  byId("back").disabled = first === 0;
  byId("next").disabled = last >= matches.length;
  choose(chosen);
};
const choose = (number) => {
  const before = Math.floor(chosen / PAGE);
  chosen = Math.max(0, Math.min(number, matches.length - 1));
  if (Math.floor(chosen / PAGE) !== before) return showPage();
  list.querySelectorAll("[aria-selected=true]").forEach((item) => item.setAttribute("aria-selected", "false"));
  const item = byId(`item-${chosen}`);
  if (item) {
    item.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", item.id);
    if (item.offsetTop < list.scrollTop) list.scrollTop = item.offsetTop;
    const over = item.offsetTop + item.offsetHeight - list.clientHeight;
    if (over > list.scrollTop) list.scrollTop = over;
  } else list.removeAttribute("aria-activedescendant");
  show();
};
const show = () => {
  const panel = byId("group");
  if (!matches.length) return panel.replaceChildren(make("p", "No completion fits these filters."));
  const {group, number} = matches[chosen];
  const run = data.runs.length > 1 ? `${data.runs[group.run]}, ` : "";
  const parts = [make("h3", `${run}step ${group.step}, problem ${group.problem}`)];
  if (group.prompt) parts.push(make("pre", group.prompt));
  if (group.answer !== null) parts.push(make("p", `Expected answer: ${group.answer}`));
  parts.push(make("p", `Advantage: ${group.parts}. "none": it did not train, or its advantage depends on more than rewards.`, "note"));
  if (group.samples.some((sample) => sample.gaps)) parts.push(legend());
  group.samples.forEach((sample, at) => parts.push(card(sample, at === number)));
  panel.replaceChildren(...parts);
};
const card = (sample, isChosen) => {
  const box = make("article", undefined, `${isDemonstration(sample) ? "demonstration" : ""} ${isChosen ? "chosen" : ""}`);
  if (isChosen) box.setAttribute("aria-current", "true");
  const head = make("h4");
  head.append(make("span", sample.kind, isDemonstration(sample) ? "shown" : ""));
  if (!isDemonstration(sample)) head.append(make("span", grade(sample), tone(sample)));
  head.append(make("span", `reward ${sample.reward}`), make("span", `advantage ${signed(sample.advantage)}`));
  if (sample.gaps) head.append(make("span", `teacher ${nats(sample.gap)} a token`));
  head.append(make("span", sample.kept ? "trained" : "not trained"), make("span", `${sample.tokens} tokens`));
  if (sample.hint) head.append(make("span", `the first ${sample.hint} are a hint`));
  if (sample.cut) head.append(make("span", "cut off", "wrong"));
  if (sample.reason) head.append(make("span", sample.reason, "note"));
  const text = sample.gaps ? shaded(sample.gaps) : make("pre", sample.text);
  text.dir = "auto";
  box.append(head, text);
  return box;
};

// Tokens shaded by log pi_T - log pi, in nats; the underline repeats what the color shows.
const bounds = [0.25, 0.5, 1, 2, 4, 8];
const shade = (gap) => {
  const level = bounds.filter((bound) => Math.abs(gap) >= bound).length;
  return level ? `${gap > 0 ? "up" : "down"}${level} ${gap > 0 ? "likelier" : "unlikelier"}` : "";
};
const nats = (gap) => `${gap > 0 ? "+" : ""}${gap} nats`;
const shaded = (gaps) => {
  const text = make("pre");
  text.append(...gaps.map(([token, gap]) => {
    const span = make("span", token, shade(gap));
    span.title = nats(gap);
    return span;
  }));
  const show = (event) => {
    readout.hidden = !event.target.title;
    if (readout.hidden) return;
    readout.textContent = `log pi_T - log pi: ${event.target.title}`;
    readout.style.left = `${Math.min(event.clientX + 14, innerWidth - readout.offsetWidth - 8)}px`;
    readout.style.top = `${event.clientY + 14}px`;
  };
  text.addEventListener("pointerdown", show);  // a finger has no pointer that hovers
  text.addEventListener("pointerleave", () => { readout.hidden = true; });
  return text;
};
const legend = () => {
  const line = make("p", "Shade: log pi_T - log pi of a token in nats: ", "note legend");
  [-4, -1, -0.25].forEach((gap) => line.append(make("span", String(gap), shade(gap)), " "));
  line.append(make("span", "near 0"), " ");
  [0.25, 1, 4].forEach((gap) => line.append(make("span", `+${gap}`, shade(gap)), " "));
  line.append("(solid line: likelier under the teacher than under the policy; dotted: less likely)");
  return line;
};

filters.addEventListener("input", search);
filters.addEventListener("change", search);  // not every browser fires input for a select
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(search));
byId("back").addEventListener("click", () => choose((Math.floor(chosen / PAGE) - 1) * PAGE));
byId("next").addEventListener("click", () => choose((Math.floor(chosen / PAGE) + 1) * PAGE));
const moves = {ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (!byId("completions").contains(event.target)) return;  // elsewhere single letters are shortcuts of the browser
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "/" && !typing) { event.preventDefault(); field.text.focus(); return; }
  if (typing) return;
  const isLetter = event.key === "j" || event.key === "k";
  if (event.key in moves && (isLetter || event.target === list)) {
    event.preventDefault();
    choose(Math.min(chosen + moves[event.key], matches.length - 1));
  } else if (event.key === "Enter" && event.target === list) byId("group").focus();
});
search();
})();
