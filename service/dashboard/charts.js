"use strict";
// Four small charts in SVG. Each is an image with a text that says what it shows; the table below
// it has the numbers.

const MARGIN = { top: 12, right: 12, bottom: 34, left: 46 };

const linear = (from, to, [start, end]) => (value) =>
  start + ((value - from) / (to - from || 1)) * (end - start);

/** An empty drawing as wide as its place, at one unit a pixel, described by `label`. */
function drawing(place, label, height = 220) {
  const width = Math.max(220, place.clientWidth);
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  place.replaceChildren(image);
  return { image, width, height };
}

/** Say in a chart's place why there is nothing to see. */
function nothing(place, why) {
  const { image, width, height } = drawing(place, why);
  for (const [i, line] of wrapped(why, width / 7).entries()) {
    const at = { x: width / 2, y: height / 2 - 8 + 18 * i, "text-anchor": "middle" };
    image.append(svg("text", at, line));
  }
}

function wrapped(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (longer.length > most) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

/** A drawing with axes; `x` and `y` are {from, to, ticks, show, title}. */
function framed(place, label, x, y) {
  const { image, width, height } = drawing(place, label);
  const box = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
  const at = { x: linear(x.from, x.to, [box.left, box.right]), y: linear(y.from, y.to, [box.bottom, box.top]) };
  for (const tick of y.ticks) {
    image.append(
      svg("line", { class: "grid", x1: box.left, x2: box.right, y1: at.y(tick), y2: at.y(tick) }),
      svg("text", { x: box.left - 6, y: at.y(tick) + 4, "text-anchor": "end" }, y.show(tick)),
    );
  }
  for (const tick of x.ticks) {
    image.append(svg("text", { x: at.x(tick), y: box.bottom + 15, "text-anchor": "middle" }, x.show(tick)));
  }
  image.append(
    svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    svg("text", { x: box.right, y: box.bottom + 30, "text-anchor": "end" }, x.title),
  );
  return { image, at, box };
}

/** Whole numbers from 0 to at least `most`, about four of them. */
function wholeTicks(most) {
  const rough = Math.max(1, most) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].find((m) => m * power >= rough) * power);
  return Array.from({ length: Math.ceil(Math.max(1, most) / step) + 1 }, (_, i) => i * step);
}

const bar = (name, x, width, top, bottom, title) =>
  svg("rect", { class: name, x, width: Math.max(1, width), y: top, height: Math.max(0, bottom - top) }, svg("title", {}, title));

/** Bars a minute, of several kinds on top of each other. */
function stackedMinutes(place, label, minutes, kinds) {
  const totals = minutes.map((minute) => kinds.reduce((sum, kind) => sum + minute[kind], 0));
  const ticks = wholeTicks(Math.max(...totals));
  const every = place.clientWidth < 480 ? 20 : 10;
  const x = {
    from: 0, to: minutes.length, title: "",
    ticks: [...minutes.keys()].filter((i) => (minutes.length - 1 - i) % every === 0).map((i) => i + 0.5),
    show: (i) => minuteOf(minutes[Math.floor(i)].at),
  };
  const { image, at } = framed(place, label, x, { from: 0, to: ticks.at(-1), ticks, show: count });
  const width = at.x(1) - at.x(0);
  minutes.forEach((minute, i) => {
    let below = 0;
    const said = `${minuteOf(minute.at)}: ${kinds.map((kind) => `${minute[kind]} ${kind}`).join(", ")}`;
    for (const kind of kinds.filter((name) => minute[name] > 0)) {
      const above = below + minute[kind];
      image.append(bar(kind, at.x(i) + width * 0.1, width * 0.8, at.y(above), at.y(below), said));
      below = above;
    }
  });
}

/** Live shares as bars, the reference's as a line of steps, thresholds as a mark. */
function histogram(place, label, live, reference, threshold) {
  const most = Math.max(...live, ...reference, 0.05);
  const top = Math.ceil(most * 20) / 20;
  const ticks = [0, top / 2, top];
  const unit = { from: 0, to: 1, ticks: [0, 0.25, 0.5, 0.75, 1], show: String, title: "P(correct)" };
  const y = { from: 0, to: top, ticks, show: (v) => `${grouped(100 * v, Number.isInteger(100 * v) ? 0 : 1)}%` };
  const { image, at, box } = framed(place, label, unit, y);
  const width = (at.x(1) - at.x(0)) / live.length;
  live.forEach((part, i) => {
    const said = `${ratio(i / live.length)} to ${ratio((i + 1) / live.length)}: ${share(part)} of live answers`;
    if (part > 0) image.append(bar("live", at.x(i / live.length) + 1, width - 2, at.y(part), box.bottom, said));
  });
  if (reference.length) {
    const steps = reference.flatMap((part, i) => [
      [at.x(i / reference.length), at.y(part)], [at.x((i + 1) / reference.length), at.y(part)],
    ]);
    image.append(svg("polyline", { class: "reference", points: steps.map((p) => p.join()).join(" ") }));
  }
  if (known(threshold)) {
    const x = at.x(Math.min(1, threshold));
    image.append(svg("line", { class: "mark", x1: x, x2: x, y1: box.top, y2: box.bottom }));
  }
}

/** Accuracy among kept answers over the share escalated; returns what a place on it stands for. */
function routingCurve(place, label, curve, { points, inForce, whatIf, minKept }) {
  const shown = curve.filter((point) => known(point.accuracy_kept));
  const least = Math.min(...shown.map((point) => point.accuracy_kept));
  const from = Math.max(0, Math.floor(least * 10 - 0.5) / 10);
  const all = place.clientWidth < 480 ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1];
  const x = { from: 0, to: 1, ticks: all, show: (v) => `${100 * v}%`, title: "escalated →" };
  const y = { from, to: 1, ticks: [0, 0.5, 1].map((part) => from + part * (1 - from)), show: (v) => `${Math.round(100 * v)}%` };
  const { image, at, box } = framed(place, label, x, y);
  const line = (name, some) =>
    svg("polyline", { class: name, points: some.map((p) => `${at.x(p.escalation_ratio)},${at.y(p.accuracy_kept)}`).join(" ") });
  const firm = shown.filter((point) => point.n_kept >= minKept);
  image.append(line("curve few", shown.slice(Math.max(0, firm.length - 1))), line("curve", firm));
  image.append(svg("text", { x: box.left + 4, y: box.top + 2 }, "right among kept"));
  const dot = (name, point, r, said) => {
    if (known(point?.accuracy)) {
      const where = { class: name, cx: at.x(point.escalation), cy: at.y(point.accuracy), r };
      image.append(svg("circle", where, svg("title", {}, said)));
    }
  };
  for (const point of points) {
    dot("point", { escalation: point.escalation_ratio, accuracy: point.accuracy_kept }, 4, point.target);
  }
  dot("in-force", inForce, 6, "in force");
  dot("what-if", whatIf, 10, "what if");
  return (pageX) => {
    const inside = (pageX - image.getBoundingClientRect().left - box.left) / (box.right - box.left);
    return Math.min(1, Math.max(0, inside));
  };
}

/** From the median to the 95th percentile, a row for each name, on a log scale. */
function spans(place, label, rows) {
  const values = rows.flatMap((row) => [row.p50, row.p95]).filter((v) => v > 0);
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  const step = 27;
  const left = 82;
  const { image, width } = drawing(place, label, rows.length * step + 34);
  const x = linear(low, high, [left, width - 20]);
  const bottom = rows.length * step + 6;
  const every = Math.ceil((high - low) / (width < 420 ? 3 : 5));
  for (let power = low; power <= high; power += 1) {
    image.append(svg("line", { class: "grid", x1: x(power), x2: x(power), y1: 0, y2: bottom }));
    if ((power - low) % every === 0) {
      const under = { x: x(power), y: bottom + 16, "text-anchor": "middle" };
      image.append(svg("text", under, shortTime(10 ** power)));
    }
  }
  rows.forEach((row, i) => {
    const y = i * step + 16;
    const said = svg("title", {}, `${row.name}: p50 ${duration(row.p50)}, p95 ${duration(row.p95)}`);
    const [half, tail] = [x(Math.log10(row.p50)), x(Math.log10(row.p95))];
    image.append(
      svg("text", { class: "strong", x: 0, y: y + 4 }, row.name),
      svg("g", {}, said,
        svg("line", { class: "span", x1: half, x2: tail, y1: y, y2: y }),
        svg("circle", { class: "half", cx: half, cy: y, r: 6 }),
        svg("path", { class: "tail", d: `M${tail} ${y - 7}l6 7l-6 7l-6 -7z` })),
    );
  });
}

const shortTime = (ms) => (ms >= 1000 ? `${ms / 1000} s` : `${Number(ms.toPrecision(1))} ms`);
