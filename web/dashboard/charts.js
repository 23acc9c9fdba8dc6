/**
 * Charts of the last minutes, drawn as SVG by hand: lines with an axis that fits, and bars for blackouts.
 *
 * @module
 */

import { element, say, svg } from "./dom.js";
import { number, rate } from "./format.js";

const WIDTH = 300;
const HEIGHT = 64;
const SPAN_MS = 180_000;
const MOST_SAMPLES = 400;

/** @typedef {{at: number, values: Record<string, number | null>}} Sample */

/** @type {{title: string, lines: [string, string, string][], show: (value: number | null) => string, budget?: boolean}[]} */
const CHARTS = [
  { title: "Tick, ms", lines: [["tick_ms_p99", "p99", "strong"], ["tick_ms_p50", "p50", "soft"]], show: (v) => number(v), budget: true },
  { title: "Commit, ms", lines: [["commit_ms_p99", "p99", "strong"], ["commit_ms_p50", "p50", "soft"]], show: (v) => number(v) },
  { title: "Players", lines: [["players", "", "strong"]], show: (v) => number(v) },
  { title: "Snapshots out", lines: [["bytes_s", "", "strong"]], show: (v) => rate(v) },
];

/** @param {number} value @returns {number} the next round number above */
function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value) ?? value;
}

export class Charts {
  /** @param {HTMLElement} at */
  constructor(at) {
    /** @type {Sample[]} */
    this.samples = [];
    this.parts = CHARTS.map((chart) => {
      const now = element("span", { class: "now mono" });
      const top = element("span", { class: "top faint mono" });
      const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
      at.append(element("figure", { class: "chart" }, element("figcaption", {}, chart.title, now), drawing, top));
      return { chart, now, top, drawing };
    });
    this.bars = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.last = element("span", { class: "now mono" });
    this.barTop = element("span", { class: "top faint mono" });
    at.append(element("figure", { class: "chart" }, element("figcaption", {}, "Blackouts of failovers", this.last), this.bars, this.barTop));
  }

  /** Begin with what the coordinator remembers. @param {{fields: string[], samples: (number | null)[][]}} trend */
  begin(trend) {
    const now = performance.now();
    this.samples = trend.samples.map(([age, ...values]) => ({
      at: now - Number(age),
      values: Object.fromEntries(trend.fields.map((name, index) => [name, values[index] ?? null])),
    }));
  }

  /** @param {Record<string, number | null>} totals */
  add(totals) {
    const now = performance.now();
    const last = this.samples.at(-1);
    if (last && now - last.at < 950) return;
    this.samples.push({ at: now, values: totals });
    while (this.samples.length > MOST_SAMPLES || (this.samples.length && this.samples[0].at < now - SPAN_MS)) this.samples.shift();
  }

  /** @param {number} budgetMs */
  draw(budgetMs) {
    const now = performance.now();
    for (const { chart, now: label, top, drawing } of this.parts) {
      const names = chart.lines.map(([name]) => name);
      const most = Math.max(0, ...this.samples.flatMap((sample) => names.map((name) => sample.values[name] ?? 0)));
      const ceiling = nice(most * 1.05);
      const latest = this.samples.at(-1)?.values ?? {};
      const told = chart.lines.map(([name, short]) => `${short ? `${short} ` : ""}${chart.show(latest[name] ?? null)}`);
      say(label, told.join(" · "));
      say(top, `${chart.show(ceiling)}${chart.budget && budgetMs <= ceiling ? "" : chart.budget ? ` · budget ${number(budgetMs, "ms")}` : ""}`);
      drawing.setAttribute("aria-label", `${chart.title}: ${told.join(", ")}; at most ${chart.show(most)} in three minutes`);
      const lines = chart.lines.map(([name, , weight]) => this.#line(name, weight, ceiling, now));
      if (chart.budget && budgetMs <= ceiling) {
        const y = HEIGHT - (budgetMs / ceiling) * HEIGHT;
        lines.push(svg("line", { x1: 0, x2: WIDTH, y1: y, y2: y, class: "budget" }));
      }
      drawing.replaceChildren(...lines.reverse());
    }
  }

  /** @param {string} name @param {string} weight @param {number} ceiling @param {number} now */
  #line(name, weight, ceiling, now) {
    let path = "";
    let up = false;
    let first = 0;
    let last = 0;
    for (const sample of this.samples) {
      const value = sample.values[name];
      if (value === null || value === undefined) {
        up = false;
        continue;
      }
      const x = WIDTH - ((now - sample.at) / SPAN_MS) * WIDTH;
      path += `${up ? "L" : "M"}${x.toFixed(1)} ${(HEIGHT - 1 - (value / ceiling) * (HEIGHT - 3)).toFixed(1)}`;
      if (!first) first = x;
      last = x;
      up = true;
    }
    const line = svg("path", { d: path, class: `line ${weight}` });
    if (weight !== "strong" || !path.includes("L")) return line;
    return svg("g", {}, svg("path", { d: `${path}L${last.toFixed(1)} ${HEIGHT}L${first.toFixed(1)} ${HEIGHT}Z`, class: "area" }), line);
  }

  /** @param {{blackout_ms?: number, text: string}[]} recoveries */
  drawBlackouts(recoveries) {
    const values = recoveries.map((event) => event.blackout_ms ?? 0);
    const ceiling = nice(Math.max(0, ...values) * 1.05);
    const step = WIDTH / 20;
    const bars = recoveries.map((event, index) => {
      const height = Math.max(2, ((event.blackout_ms ?? 0) / ceiling) * (HEIGHT - 2));
      const x = WIDTH - (recoveries.length - index) * step;
      const bar = svg("rect", { x: x + 2, y: HEIGHT - height, width: step - 4, height, class: "bar" });
      bar.append(svg("title", { text: event.text }));
      return bar;
    });
    this.bars.replaceChildren(...bars);
    say(this.last, values.length ? `last ${number(values.at(-1), "ms")}` : "none yet");
    say(this.barTop, values.length ? number(ceiling, "ms") : "");
    this.bars.setAttribute("aria-label", `Blackouts of the last ${values.length} failovers in ms: ${values.join(", ") || "none"}`);
  }
}
