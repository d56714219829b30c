// What the page gains from a script: values under the pointer, smoothing, and a closer look at the step.
// Without it every picture is there, as it was drawn.
"use strict";

const tip = document.body.appendChild(Object.assign(document.createElement("div"), { className: "tip", hidden: true }));

function showTip(event, fill) {
  tip.replaceChildren();
  fill(tip);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - 16 - width : event.clientX + 16;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, Math.min(event.clientY + 16, innerHeight - height - 4)) + "px";
}

function add(parent, name, text, className) {
  const element = parent.appendChild(document.createElement(name));
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function inUnits(x, units) {
  const [size, name] = units.findLast(([size]) => Math.abs(x) >= size) ?? units[0];
  return +(x / size).toPrecision(4) + " " + name;
}

const write = {
  steps: (x) => String(Math.round(x)),
  number: (x) => String(+x.toPrecision(5)),
  share: (x) => (100 * x).toFixed(1) + " %",
  bytes: (x) => inUnits(x, [[1, "B"], [1e3, "kB"], [1e6, "MB"], [1e9, "GB"], [1e12, "TB"]]),
  seconds: (x) => inUnits(x, [[1e-6, "us"], [1e-3, "ms"], [1, "s"]]),
};

// As the page's own drawing: at each point the straight line that fits `reach` neighbours on either side best.
function smoothed(x, y, reach) {
  return y.map((_, i) => {
    const from = Math.max(0, i - reach), to = Math.min(y.length, i + reach + 1), n = to - from;
    let meanX = 0, meanY = 0, square = 0, product = 0;
    for (let j = from; j < to; j++) { meanX += x[j] / n; meanY += y[j] / n; }
    for (let j = from; j < to; j++) { square += (x[j] - meanX) ** 2; product += (x[j] - meanX) * (y[j] - meanY); }
    return meanY + (square > 0 ? product / square : 0) * (x[i] - meanX);
  });
}

function place(axis, value) {
  return axis.log ? Math.log(value / axis.from) / Math.log(axis.to / axis.from) : (value - axis.from) / (axis.to - axis.from);
}

function valueAt(axis, share) {
  return axis.log ? axis.from * (axis.to / axis.from) ** share : axis.from + share * (axis.to - axis.from);
}

class Chart {
  constructor(figure) {
    this.plot = figure.querySelector(".plot");
    Object.assign(this, JSON.parse(figure.querySelector("script").textContent));
    for (const curve of this.curves) {
      curve.last ??= curve.first;
      curve.at = curve.first.map((first, i) => (first + curve.last[i]) / 2);
    }
    this.hair = add(this.plot, "div", undefined, "hair");
    this.hair.hidden = true;
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => { tip.hidden = this.hair.hidden = true; });
  }

  // `strength` from 0 (none) to 1; a half is what the page was drawn with.
  smooth(strength) {
    for (const path of this.plot.querySelectorAll("path[data-curve]")) {
      const curve = this.curves[path.dataset.curve];
      const reach = Math.floor(curve.y.length / 40 * (16 ** strength - 1) / 3);
      curve.smoothed = smoothed(curve.at, curve.y, reach);
      const point = (y, i) => (1000 * place(this.x, curve.at[i])).toFixed(1) + " " + (1000 * (1 - place(this.y, y))).toFixed(1);
      path.setAttribute("d", "M" + curve.smoothed.map(point).join("L"));
    }
  }

  point(event) {
    const { left, width } = this.plot.getBoundingClientRect();
    const x = valueAt(this.x, Math.min(1, Math.max(0, (event.clientX - left) / width)));
    const near = this.curves.filter((curve) => curve.y.length > 0).map((curve) => {
      let best = 0;
      const distance = (i) => Math.max(curve.first[i] - x, x - curve.last[i], 0);
      for (let i = 1; i < curve.y.length; i++) if (distance(i) < distance(best)) best = i;
      return { curve, i: best, distance: distance(best) };
    });
    if (near.length === 0) return;
    // The curve with the nearest point says where we are.
    const here = near.reduce((a, b) => (b.distance < a.distance || (b.distance === a.distance && b.curve.y.length > a.curve.y.length) ? b : a));
    const { curve: { first, last, at }, i } = here;
    this.hair.hidden = false;
    this.hair.style.left = 100 * place(this.x, at[i]) + "%";
    const text = write[this.x.quantity];
    const range = first[i] === last[i] ? text(at[i]) : text(first[i]) + " to " + text(last[i]);
    showTip(event, (tip) => {
      add(tip, "b", (this.x.quantity === "steps" ? "step " : "") + range);
      for (const { curve, i } of near) {
        const row = add(tip, "div");
        add(row, "i", undefined, (curve.class[0] === "m" ? "box " : "curve ") + curve.class);
        const value = write[this.y.quantity];
        let words = `${curve.name} ${value(curve.y[i])}`;
        if (curve.low) words += ` (${value(curve.low[i])} to ${value(curve.high[i])})`;
        if (curve.smoothed) words += `, smoothed ${value(curve.smoothed[i])}`;
        row.append(words);
      }
    });
  }
}

function charts() {
  const all = [...document.querySelectorAll("figure.chart")].map((figure) => new Chart(figure));
  for (const slider of document.querySelectorAll(".smoothing")) {
    slider.closest(".tools").hidden = false;
    const smooth = () => all.forEach((chart) => chart.smooth(slider.value / 100));
    slider.addEventListener("input", smooth);
    smooth();
  }
}

// Gantt pictures that share a window of time.
class Gantts {
  static LEFT = 70;
  static RIGHT = 16;

  constructor(box, tools) {
    this.box = box;
    this.pictures = [...box.querySelectorAll("svg.gantt")].map((svg) => this.read(svg));
    this.until = Math.max(...this.pictures.map((picture) => picture.until));
    this.view = { from: 0, to: this.until };
    box.classList.add("live");
    tools.hidden = false;
    tools.addEventListener("click", (event) => this.command(event.target.dataset.zoom));
    box.addEventListener("pointermove", (event) => this.point(event));
    box.addEventListener("pointerleave", () => { tip.hidden = true; });
    box.addEventListener("pointerdown", (event) => this.begin(event));
    box.addEventListener("dblclick", () => this.command("whole"));
    new ResizeObserver(() => this.lay()).observe(box);
  }

  read(svg) {
    const { width, height } = svg.viewBox.baseVal;
    const until = +svg.dataset.until;
    const time = (x) => (x - Gantts.LEFT) / (width - Gantts.LEFT - Gantts.RIGHT) * until;
    const bars = [...svg.querySelectorAll("g")].map((group) => {
      const rect = group.querySelector("rect"), title = group.querySelector("title");
      const from = time(+rect.getAttribute("x")), to = from + time(+rect.getAttribute("width") + Gantts.LEFT);
      group.dataset.tip = title.textContent;
      title.remove();
      const microbatch = rect.classList.contains("m") ? null : /^\d+[A-Z_]+(\d+)/.exec(group.dataset.tip)?.[1];
      return { group, rect, from, to, microbatch, text: group.querySelector("text") };
    });
    const ticks = [...svg.querySelectorAll(".grid, .tick")];
    const top = +/M[\d.]+ ([\d.]+)V/.exec(ticks[0].getAttribute("d"))[1];
    return { svg, height, until, bars, ticks, top, chosen: null };
  }

  get width() { return Math.max(this.box.clientWidth, 720); }
  x(time) { return Gantts.LEFT + (time - this.view.from) / (this.view.to - this.view.from) * (this.width - Gantts.LEFT - Gantts.RIGHT); }
  time(x) { return this.view.from + (x - Gantts.LEFT) / (this.width - Gantts.LEFT - Gantts.RIGHT) * (this.view.to - this.view.from); }

  lay() {
    const width = this.width, right = width - Gantts.RIGHT;
    for (const { svg, height, bars } of this.pictures) {
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("width", width);
      for (const bar of bars) {
        const from = Math.max(Gantts.LEFT, this.x(bar.from)), to = Math.min(right, this.x(bar.to));
        bar.group.style.display = to > from ? "" : "none";
        bar.rect.setAttribute("x", from);
        bar.rect.setAttribute("width", Math.max(to - from, 0.3));
        this.number(bar, from, to);
      }
    }
    this.pictures.forEach((picture) => this.ticks(picture, right));
  }

  number(bar, from, to) {
    if (!bar.microbatch) return;
    const fits = to - from >= 7 * bar.microbatch.length + 3;
    if (!bar.text && fits) {
      bar.text = bar.group.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "text"));
      bar.text.setAttribute("class", "on" + (bar.rect.classList.contains("further") ? " further" : ""));
      bar.text.setAttribute("y", +bar.rect.getAttribute("y") + 15);
      bar.text.setAttribute("text-anchor", "middle");
      bar.text.textContent = bar.microbatch;
    }
    if (bar.text) {
      bar.text.style.display = fits ? "" : "none";
      bar.text.setAttribute("x", (from + to) / 2);
    }
  }

  ticks({ svg, ticks, height, top }, right) {
    ticks.splice(0).forEach((tick) => tick.remove());
    const { from, to } = this.view, least = (to - from) / (this.width / 110);
    const power = 10 ** Math.floor(Math.log10(least));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= least);
    const [size, unit] = [[1, "s"], [1e-3, "ms"], [1e-6, "us"]].find(([size]) => to >= size) ?? [1e-9, "ns"];
    const digits = Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-9));
    for (let i = Math.ceil(from / step - 1e-9); i * step <= to; i++) {
      const x = this.x(i * step);
      if (x > right + 1) break;
      const make = (name, attributes) => {
        const element = document.createElementNS("http://www.w3.org/2000/svg", name);
        for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
        svg.insertBefore(element, svg.querySelector("g"));
        ticks.push(element);
        return element;
      };
      make("path", { class: "grid", d: `M${x} ${top}V${height - 34}` });
      make("text", { class: "faint tick", x, y: height - 18, "text-anchor": "middle" }).textContent = (i * step / size).toFixed(digits) + " " + unit;
    }
  }

  command(name) {
    const { from, to } = this.view, length = to - from, middle = (from + to) / 2;
    const windows = {
      in: [middle - length / 4, middle + length / 4],
      out: [middle - length, middle + length],
      left: [from - length / 2, to - length / 2],
      right: [from + length / 2, to + length / 2],
      whole: [0, this.until],
    };
    if (windows[name]) this.look(...windows[name]);
  }

  // A window is at most the whole step and at least a millionth of it, and lies within it.
  look(from, to) {
    const length = Math.min(this.until, Math.max(to - from, this.until * 1e-6));
    const start = Math.min(Math.max(0, from), this.until - length);
    this.view = { from: start, to: start + length };
    this.lay();
  }

  position(event) {
    const { left, width } = this.pictures[0].svg.getBoundingClientRect();
    return Math.min(this.width - Gantts.RIGHT, Math.max(Gantts.LEFT, (event.clientX - left) / width * this.width));
  }

  point(event) {
    const group = event.target.closest?.("g[data-tip]");
    if (!group) { tip.hidden = true; return; }
    showTip(event, (tip) => add(tip, "span", group.dataset.tip));
  }

  begin(event) {
    if (event.button !== 0 || !event.target.closest("svg")) return;
    const start = this.position(event);
    const marks = this.pictures.map(({ svg, height, top }) => {
      const mark = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
      mark.setAttribute("class", "chosen");
      mark.setAttribute("y", top);
      mark.setAttribute("height", height - 34 - top);
      return mark;
    });
    const move = (event) => {
      const here = this.position(event);
      marks.forEach((mark) => {
        mark.setAttribute("x", Math.min(start, here));
        mark.setAttribute("width", Math.abs(here - start));
      });
    };
    const end = (event) => {
      removeEventListener("pointermove", move);
      marks.forEach((mark) => mark.remove());
      const times = [start, this.position(event)].map((x) => this.time(x)).sort((a, b) => a - b);
      if (Math.abs(this.position(event) - start) > 4) this.look(...times);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end, { once: true });
  }
}

charts();
const box = document.querySelector(".gantts");
if (box) new Gantts(box, document.querySelector(".gantt-tools"));
