// The page's script: draws charts, filters them and the cases, and shows cases token by token.
// Texts may be a model's: they are set as text, never as markup.
(() => {
  "use strict";
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const MANY = 1500; // points above which a chart is drawn on a canvas
  const FAR = data.far; // z-scores further out are drawn at the border
  const STEPS = [1e-9, 0.1, 0.5, 1, 2]; // of J: a token's shade says between which it lies
  const SVG = "http://www.w3.org/2000/svg";

  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
  const words = (name) => name.replaceAll("_", " ");
  const figure = (x) => (x === null || x === undefined ? "not known" : (Math.abs(x) < 0.0005 ? 0 : x).toLocaleString("en", { maximumSignificantDigits: 3 }));

  function make(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function draw(tag, attributes) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  // --- Points of the failure maps -------------------------------------------------------------

  const named = (map, name, i) => map.named[name].names[map.named[name].at[i]];
  const near = (z) => (z === null ? null : Math.max(-FAR, Math.min(FAR, z)));

  function pointsOf(map) {
    return map.named.key.at.map((_, i) => {
      const point = { map, i, route: named(map, "route", i), outcome: named(map, "outcome", i), case: map.cases[i] ?? -1 };
      map.z.forEach((column, feature) => { point[`z${feature}`] = near(column[i]); });
      return point;
    });
  }

  function pointTip({ map, i }) {
    const rows = [["", named(map, "key", i)], ["task", named(map, "task", i)], ["model", named(map, "model", i)],
      ["regime", words(named(map, "regime", i)) || "none"], ["route", words(named(map, "route", i))],
      ["outcome", named(map, "outcome", i)]];
    map.features.forEach((name, f) => {
      const far = Math.abs(map.z[f][i]) > FAR ? ", beyond the border" : "";
      rows.push([words(name), `${figure(map.raw[f][i])} (z ${figure(map.z[f][i])}${far})`]);
    });
    return rows;
  }

  const points = data.maps.map(pointsOf);
  let filters = {}; // name -> value that is shown alone

  const isShown = ({ map, i }) => Object.entries(filters).every(([name, value]) => named(map, name, i) === value);
  const shownPoints = (index) => points[index].filter(isShown);

  // --- Tooltip --------------------------------------------------------------------------------

  const tip = document.getElementById("tip");

  function showTip(event, rows) {
    const list = make("dl");
    for (const [name, value] of rows) {
      if (name) list.append(make("dt", "", name));
      list.append(make("dd", name ? "" : "whole-row", value));
    }
    tip.replaceChildren(list);
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = event.clientX + 14 + width > innerWidth - 8 ? event.clientX - width - 14 : event.clientX + 14;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(event.clientY + 14, innerHeight - height - 8))}px`;
  }

  function hideTip() { tip.hidden = true; }

  function onTip(_, event, item) {
    const datum = item && item.datum;
    const rows = datum && (datum.tip || (datum.map && pointTip(datum)));
    if (rows) showTip(event, rows);
    else hideTip();
  }

  // --- Charts ---------------------------------------------------------------------------------

  const drawn = new Map(); // element -> {view, width}
  const styles = () => getComputedStyle(root);

  function resolved(value, style) {
    if (typeof value === "string") {
      const found = /^var\((--[\w-]+)\)$/.exec(value);
      return found ? style.getPropertyValue(found[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((one) => resolved(one, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, resolved(one, style)]));
  }

  function drawChart(element) {
    const [spec, map] = data.charts[element.id];
    const width = element.clientWidth;
    if (!width) return;
    forget(element);
    const style = styles();
    const config = resolved(data.theme, style);
    const { spec: compiled } = vegaLite.compile({ ...resolved(spec, style), width }, { config, logger: quiet });
    const many = map !== null && points[map].length > MANY;
    const view = new vega.View(vega.parse(compiled, null, { ast: true }), {
      expr: vega.expressionInterpreter, renderer: many ? "canvas" : "svg", container: element, hover: false, logger: quiet,
    });
    view.tooltip(onTip);
    if (map !== null) {
      view.data("points", shownPoints(map));
      view.addEventListener("click", (_, item) => { if (item && item.datum && item.datum.case >= 0) openCase(item.datum.case, true); });
      view.addEventListener("pointermove", (_, item) => {
        element.style.cursor = item && item.datum && item.datum.case >= 0 ? "pointer" : "";
      });
    }
    view.run();
    element.firstElementChild.setAttribute("aria-hidden", "true"); // the element itself says what it shows
    drawn.set(element, { view, width, map });
  }

  const quiet = vega.logger(vega.Error);

  function forget(element) {
    const known = drawn.get(element);
    if (known) known.view.finalize();
    drawn.delete(element);
    element.replaceChildren();
  }

  const charts = all(".chart");
  const isNear = new Set();

  function redraw() {
    for (const element of [...drawn.keys()]) {
      if (isNear.has(element)) drawChart(element);
      else forget(element);
    }
  }

  const nearby = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) isNear.add(target); else isNear.delete(target);
      if (isIntersecting && !drawn.has(target)) drawChart(target);
    }
  }, { rootMargin: "600px 0px" });

  let waiting = 0;
  const sizes = new ResizeObserver((entries) => {
    if (root.dataset.printing) return;
    const changed = entries.some(({ target }) => drawn.has(target) && drawn.get(target).width !== target.clientWidth);
    if (!changed) return;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 120);
  });

  // --- Theme and printing ---------------------------------------------------------------------

  function setTheme(name) {
    if (name) root.dataset.theme = name; else delete root.dataset.theme;
    for (const button of all(".themes button")) button.setAttribute("aria-pressed", String(button.dataset.theme === name));
    redraw();
  }

  let before = null; // what printing changed

  function startPrint() {
    if (before) return;
    const first = document.querySelector("details.case:not([hidden])");
    const opened = [...all("details.numbers"), first].filter((one) => one && !one.open);
    before = { theme: root.dataset.theme, opened };
    for (const one of opened) { one.open = true; if (one === first) showTraces(one); }
    root.dataset.theme = "light";
    root.dataset.printing = "true";
    charts.forEach(drawChart);
  }

  function endPrint() {
    if (!before) return;
    for (const one of before.opened) one.open = false;
    if (before.theme) root.dataset.theme = before.theme; else delete root.dataset.theme;
    delete root.dataset.printing;
    before = null;
    charts.forEach(drawChart);
  }

  // --- Filters --------------------------------------------------------------------------------

  const form = document.querySelector(".filters");
  const cases = all("details.case");
  let why = "";

  function readFilters() {
    const chosen = form ? all("select", form).filter((select) => select.selectedIndex > 0) : [];
    filters = Object.fromEntries(chosen.map((select) => [select.name, select.value]));
  }

  function showCases() {
    for (const one of cases) {
      const fits = Object.entries(filters).every(([name, value]) => one.dataset[name] === value);
      one.hidden = !(fits && (!why || one.dataset.why.split("|").includes(why)));
    }
    const none = document.querySelector(".no-case");
    if (none) none.hidden = cases.length === 0 || cases.some((one) => !one.hidden);
  }

  function applyFilters() {
    readFilters();
    for (const { view, map } of drawn.values()) if (map !== null) view.data("points", shownPoints(map)).run();
    showCases();
    const total = points.reduce((sum, some) => sum + some.length, 0);
    const shown = points.reduce((sum, some) => sum + some.filter(isShown).length, 0);
    if (form) form.querySelector(".shown").textContent = total ? `${shown.toLocaleString("en")} of ${count(total, "failure")} shown` : "";
  }

  function pick(button) {
    why = button.dataset.why;
    for (const one of all(".picks button")) one.setAttribute("aria-pressed", String(one === button));
    showCases();
  }

  // --- Cases ----------------------------------------------------------------------------------

  function openCase(index, focus) {
    const found = cases[index];
    if (!found) return;
    found.hidden = false;
    found.open = true;
    document.querySelector(".no-case").hidden = true;
    showTraces(found);
    found.scrollIntoView({ block: "start" });
    if (focus) found.querySelector("summary").focus({ preventScroll: true });
  }

  function openLinked() {
    const found = /^#case-(\d+)$/.exec(location.hash);
    if (found) openCase(Number(found[1]) - 1, false);
  }

  function showTraces(element) {
    const place = element.querySelector(".traces");
    if (!place || place.childElementCount) return;
    const found = data.cases[Number(element.dataset.index)];
    if (found.strips.length) place.append(scale());
    for (const strip of found.strips) place.append(trace(strip));
    if (found.moreStrips) place.append(make("p", "muted", `${count(found.moreStrips, "more trace")} not shown.`));
    if (found.repairs.length) place.append(make("h3", "", "Interventions beside what they started from"));
    for (const repair of found.repairs) place.append(repaired(repair));
    if (found.moreRepairs) place.append(make("p", "muted", `${count(found.moreRepairs, "more intervention")} not shown.`));
    for (const box of all(".strip", place)) showJunction(box);
    reach(element);
  }

  function showJunction(box) {
    const token = box.querySelector(".junction");
    if (token) box.scrollTop = token.offsetTop - box.offsetTop - box.clientHeight / 3;
  }

  // What scrolls can be reached by keyboard.
  function reach(within) {
    for (const box of all(".text", within)) {
      if (box.scrollHeight <= box.clientHeight + 1) continue;
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "Text that scrolls");
    }
  }

  function scale() {
    const made = make("p", "scale");
    made.append(make("span", "muted", "J in nats"), document.getElementById("steps").content.cloneNode(true));
    return made;
  }

  const shade = (pressure) => STEPS.filter((step) => pressure > step).length;

  function trace(strip) {
    const made = make("div", "trace");
    made.append(make("h4", "", `Attempt ${strip.position}, ${count(strip.length, "token")}, highest J ${figure(strip.peak)} nats`));
    if (strip.length > 150) made.append(...overview(strip));
    const box = make("div", strip.text ? "strip" : "strip blocks");
    const tokens = fill(box, strip);
    const read = make("p", "read", strip.text ? "Point at a token, or focus the trace and use the arrow keys."
      : "Text not stored: each block is a token. Point at one, or focus the trace and use the arrow keys.");
    read.setAttribute("aria-live", "polite");
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `Tokens of attempt ${strip.position}; arrow keys read them one by one`);
    made.append(box, read);
    readable(box, tokens, read, strip);
    return made;
  }

  function fill(box, strip) {
    const tokens = [];
    let shown = 0;
    for (const part of strip.parts) {
      if (part.start > shown) box.append(make("span", "gap", `… ${count(part.start - shown, "token")} not shown …`));
      part.J.forEach((pressure, i) => tokens.push(token(box, strip, part, i, pressure)));
      shown = part.start + part.J.length;
    }
    if (shown < strip.length) box.append(make("span", "gap", `… ${count(strip.length - shown, "token")} not shown …`));
    return tokens;
  }

  function token(box, strip, part, i, pressure) {
    const at = part.start + i;
    const span = make("span", `tok j${shade(pressure)}`);
    if (at === strip.junction) {
      box.append(make("span", "flag", `▼ junction, J ${figure(strip.peak)} nats`));
      span.classList.add("junction");
    }
    for (const [place, position, operator] of strip.marks) {
      if (place !== at) continue;
      box.append(make("span", "flag repair", `▼ attempt ${position}, ${words(operator)}`));
      span.classList.add("marked");
    }
    if (part.pieces) span.textContent = part.pieces[i].replaceAll("\n", "↵\n");
    box.append(span);
    return { at, span, part, i };
  }

  function readable(box, tokens, read, strip) {
    const places = new Map(tokens.map((one, place) => [one.span, place]));
    let current = -1;
    const show = (place) => {
      if (current >= 0) tokens[current].span.classList.remove("at");
      current = place;
      tokens[place].span.classList.add("at");
      read.textContent = reading(tokens[place], strip);
    };
    box.addEventListener("mouseover", ({ target }) => { if (places.has(target)) show(places.get(target)); });
    box.addEventListener("keydown", (event) => {
      const place = moved(event.key, current, tokens, strip);
      if (place === null) return;
      event.preventDefault();
      show(place);
      tokens[place].span.scrollIntoView({ block: "nearest" });
    });
  }

  function moved(key, current, tokens, strip) {
    const last = tokens.length - 1;
    if (last < 0) return null;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
    if (key in steps) {
      if (current < 0) return Math.max(0, tokens.findIndex(({ at }) => at === strip.junction));
      return Math.max(0, Math.min(last, current + steps[key]));
    }
    return { Home: 0, End: last }[key] ?? null;
  }

  function reading({ at, part, i }, strip) {
    const piece = part.pieces ? ` “${part.pieces[i].replaceAll("\n", "↵").replaceAll(" ", "·")}”` : "";
    const junction = at === strip.junction ? ", the junction" : "";
    return `Token ${at.toLocaleString("en")}${piece}${junction}: J ${figure(part.J[i])}, `
      + `path ${figure(part.path[i])}, coverage ${figure(part.coverage[i])}, entropy ${figure(part.entropy[i])}`;
  }

  function overview(strip) {
    const { size, J } = strip.overview;
    const top = Math.max(...J, 1e-9);
    const svg = draw("svg", { class: "overview", viewBox: `0 0 ${strip.length} 56`, preserveAspectRatio: "none", role: "img",
      "aria-label": `J over ${count(strip.length, "token")}, highest at token ${strip.junction}` });
    for (const part of strip.parts) svg.append(draw("rect", { class: "seen", x: part.start, y: 0, width: part.J.length, height: 56 }));
    J.forEach((pressure, bin) => {
      const height = Math.max(0, (46 * pressure) / top);
      const here = Math.floor(strip.junction / size) === bin;
      svg.append(draw("rect", { class: here ? "bar here" : "bar", x: bin * size, y: 54 - height, width: size * 0.8, height }));
    });
    svg.append(draw("line", { class: "base", x1: 0, x2: strip.length, y1: 55, y2: 55, "vector-effect": "non-scaling-stroke" }));
    const each = size > 1 ? `, highest of each ${size} tokens` : "";
    return [svg, make("p", "overview-note", `J over the whole attempt, 0 to ${figure(top)} nats${each}. Marked: the junction. Shaded: the tokens shown below.`)];
  }

  function repaired(repair) {
    const made = make("div", "repair-item");
    made.append(make("h4", "", repairTitle(repair)));
    if (repair.based && repair.at > 0) made.append(side("Kept", repair.kept, true));
    const sides = make("div", repair.based ? "sides" : "sides alone");
    if (repair.based) sides.append(side("How it failed", repair.failed, false));
    sides.append(side(`${words(repair.operator)}: ${repair.outcome}`, repair.repaired, false));
    made.append(sides);
    return made;
  }

  function repairTitle(repair) {
    const base = repair.base === null ? "" : ` of attempt ${repair.base}`;
    const from = repair.based ? `, from token ${repair.at}${base}` : "";
    return `Attempt ${repair.position}, ${words(repair.operator)}${from}: ${repair.outcome}, ${count(repair.tokens, "token")} spent`;
  }

  function side(title, text, isEnd) {
    const made = make("div", "side");
    const box = make("div", "text");
    box.append(written(text, isEnd));
    made.append(make("p", "", title), box);
    return made;
  }

  function written(text, isEnd) {
    const made = make("bdi");
    if (text === null) { made.append(make("span", "muted", "text not stored")); return made; }
    const more = text[1] ? make("span", "muted", isEnd ? `${text[1].toLocaleString("en")} earlier characters … ` : ` … ${count(text[1], "more character")}`) : "";
    if (isEnd) made.append(more, text[0]);
    else made.append(text[0] || "(nothing)", more);
    return made;
  }

  // --- Start ----------------------------------------------------------------------------------

  for (const group of all(".themes, .picks")) group.hidden = false;
  for (const button of all(".themes button")) button.addEventListener("click", () => setTheme(button.dataset.theme));
  for (const button of all(".picks button")) button.addEventListener("click", () => pick(button));
  for (const one of cases) one.addEventListener("toggle", () => { if (one.open) { showTraces(one); reach(one); } });
  for (const one of all("details.whole")) one.addEventListener("toggle", () => reach(one));
  for (const chart of charts) { nearby.observe(chart); sizes.observe(chart); }
  if (form) {
    form.addEventListener("change", applyFilters);
    form.addEventListener("reset", () => {
      const first = document.querySelector(".picks button");
      if (first) pick(first);
      setTimeout(applyFilters);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (!before) redraw(); });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  addEventListener("scroll", hideTip, { passive: true });
  addEventListener("hashchange", openLinked);
  for (const link of all('a[href^="#case-"]')) link.addEventListener("click", () => setTimeout(openLinked));
  addEventListener("beforeprint", startPrint);
  addEventListener("afterprint", endPrint);
  applyFilters();
  openLinked();
})();
