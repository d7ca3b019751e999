"use strict";
// A function for each part of the page: given the gateway's figures, it draws.

const KINDS = ["local", "remote", "degraded"];

const WHY = {
  confident: "P(correct) reached the threshold",
  uncertain: "P(correct) was below the threshold",
  gated: "the prompt alone looked too hard",
  stopped: "given up while it was being written: it looked wrong",
  capability: "asks for what the local model can't do",
  policy: "the request or its key decided",
  budget: "the budget decided",
  busy: "no local slot was free",
  drift: "live answers are not those calibrated on",
  upstream_down: "the upstream did not answer",
  no_upstream: "no upstream is configured",
  uncalibrated: "P(correct) is not known",
};

const ON_DRIFT = {
  warn: "answers are kept as before",
  tighten: "a stricter threshold than this one decides",
  escalate: "all that may leave the machine is escalated",
};

const STAGES = {
  total: "in all", first_piece: "first piece", queue: "queue", prefill: "prefill",
  decode: "decode", uq: "scores", remote: "upstream",
};

function drawTiles(data) {
  const hour = hourOf(data.minutes);
  const of = (some) => (hour.all ? share(some / hour.all) : "–");
  const tiles = [
    ["answers, last hour", count(hour.all)],
    ["answered locally", of(hour.local)],
    ["degraded", of(hour.degraded)],
    ["spent today", usd(data.money.today.spent)],
    ["saved today", usd(data.money.today.saved)],
    ["p95, in all", duration(data.latency_ms.total.p95)],
  ];
  if (!changed("tiles", tiles)) return;
  byId("tiles").replaceChildren(...tiles.map(([name, value]) => el("li", {}, el("b", {}, value), el("span", { class: "quiet" }, name))));
}

function hourOf(minutes) {
  const sum = (kind) => minutes.reduce((total, minute) => total + minute[kind], 0);
  const [local, remote, degraded] = KINDS.map(sum);
  return { local, remote, degraded, all: local + remote + degraded };
}

function drawRouting({ minutes, reasons }) {
  if (!changed("routing", [minutes, reasons])) return;
  const hour = hourOf(minutes);
  const place = byId("routing-chart");
  if (hour.all === 0) {
    nothing(place, "No answers in the last hour.");
  } else {
    const label = `Answers a minute in the last hour: ${KINDS.map((kind) => `${hour[kind]} ${kind}`).join(", ")}.`;
    stackedMinutes(place, label, minutes, KINDS);
  }
  const rows = minutes.filter((minute) => hourOf([minute]).all > 0).reverse();
  fillRows(
    byId("routing-rows"),
    rows.map((minute) => cells(minuteOf(minute.at), ...KINDS.map((kind) => count(minute[kind])))),
    4, "No answers in the last hour.",
  );
  const told = Object.entries(reasons).sort((a, b) => b[1] - a[1]).map(([reason, n]) => `${reason} ${count(n)}`);
  byId("reasons").textContent = told.length ? `Reasons since start: ${told.join(" · ")}` : "";
}

/** The share of a calibration's held-out answers in each of `n` bins of P(correct). */
function referenceShares(calibration, n) {
  const scores = calibration?.reference?.p_correct ?? [];
  const counts = new Array(n).fill(0);
  for (const p of scores) counts[Math.min(n - 1, Math.floor(p * n))] += 1;
  return scores.length ? counts.map((some) => some / scores.length) : [];
}

/** Pairs of neighbours, added up. */
const halved = (counts) => counts.filter((_, i) => i % 2 === 0).map((some, i) => some + counts[2 * i + 1]);

function drawConfidence({ p_correct: { n, counts } }, calibration, threshold) {
  if (!changed("confidence", [n, counts, calibration?.id, threshold])) return;
  const bins = halved(counts);
  const live = bins.map((some) => (n ? some / n : 0));
  const reference = referenceShares(calibration, bins.length);
  const place = byId("confidence-chart");
  const seen = n ? `The last ${count(n)} live scores` : "No live scores yet";
  const measured = reference.length
    ? `${count(calibration.reference.p_correct.length)} held-out answers`
    : "no reference: no calibration is loaded";
  byId("confidence-about").textContent = `${seen}; ${measured}`;
  if (n || reference.length) {
    const below = share(shareBelow(counts, threshold ?? 0));
    const label = `${seen} of P(correct)${n && known(threshold) ? `, ${below} of them below the threshold ${ratio(threshold)}` : ""}, beside ${measured}.`;
    histogram(place, label, live, reference, threshold);
  } else {
    nothing(place, "No scores yet, and no calibration to compare with.");
  }
  const rows = bins.map((some, i) =>
    cells(`${ratio(i / bins.length)} – ${ratio((i + 1) / bins.length)}`, n ? share(live[i]) : "–", share(reference[i])));
  fillRows(byId("confidence-rows"), n || reference.length ? rows : [], 3, "No scores yet.");
}

function drawCurve(data, calibration, inForce, wanted) {
  const price = costOfOne(data.money.since_start);
  if (!changed("curve", [calibration?.id, inForce, wanted, data.p_correct, price])) return null;
  const place = byId("curve-chart");
  const slider = byId("threshold");
  const curve = calibration?.routing_curve ?? [];
  const usable = curve.length > 0 && known(inForce);
  slider.disabled = !usable;
  byId("threshold-reset").disabled = !usable || wanted === null;
  byId("cost-note").textContent = costNote(data, price);
  drawPoints(calibration?.operating_points ?? []);
  if (!usable) {
    const why = "No calibration is loaded, so there is no curve: make one with “router calibrate”.";
    nothing(place, why);
    byId("curve-about").textContent = "";
    byId("threshold-value").textContent = "–";
    fillRows(byId("what-if"), [], 3, "Without a calibration there is nothing to expect.");
    return null;
  }
  const now = expected(curve, data, inForce);
  const then = wanted === null ? now : expected(curve, data, wanted);
  byId("curve-about").textContent =
    `Measured on ${count(calibration.n_test)} held-out answers of ${calibration.population}; ` +
    `target ${calibration.target}, score ${calibration.method}. Drag the ring, or move the slider.`;
  const label = `Right among kept answers by share escalated. In force: threshold ${spoken(now)}. What if: ${spoken(then)}.`;
  const where = routingCurve(place, label, curve, {
    points: calibration.operating_points ?? [], inForce: now, whatIf: then, minKept: calibration.min_kept ?? 1,
  });
  slider.value = String(then.threshold);
  slider.setAttribute("aria-valuetext", spoken(then));
  byId("threshold-value").textContent = ratio(then.threshold);
  const head = (text) => el("th", { scope: "row" }, text);
  const scored = data.p_correct.n ? `Escalated, of the last ${count(data.p_correct.n)} scores` : "Escalated, of live scores";
  byId("what-if").replaceChildren(
    cells(head("Threshold"), ratio(now.threshold), ratio(then.threshold)),
    cells(head("Escalated, of held-out answers"), share(now.escalation), share(then.escalation)),
    cells(head("Right among kept, held-out"), share(now.accuracy), share(then.accuracy)),
    cells(head(scored), share(now.live), share(then.live)),
    cells(head("Cost of 1,000 queries"), usd(now.cost), usd(then.cost)),
  );
  return (pageX) => thresholdFor(curve, where(pageX));
}

const spoken = ({ threshold, escalation, accuracy }) =>
  `${ratio(threshold)}, ${share(escalation)} escalated, ` +
  (known(accuracy) ? `${share(accuracy)} right among kept` : "none kept");

function costNote(data, price) {
  if (price === null) return "The cost is known once an escalated answer was paid for (settings upstream_price_in and upstream_price_out).";
  const by = data.p_correct.n ? "the share of live scores" : "the share of held-out answers";
  return `At ${usd(price)} for an escalation, the mean since start, by ${by}.`;
}

function drawPoints(points) {
  if (!changed("points", points)) return;
  fillRows(
    byId("point-rows"),
    points.map((point) =>
      cells(point.target, ratio(point.threshold), share(point.escalation_ratio), share(point.accuracy_kept), point.certificate ? "yes" : "no")),
    5, "No calibration is loaded.",
  );
}

function drawLatency({ latency_ms: times }) {
  if (!changed("latency", times)) return;
  const rows = Object.entries(STAGES).map(([stage, name]) => ({ name, ...times[stage] }));
  const measured = rows.filter((row) => row.n > 0);
  const place = byId("latency-chart");
  if (measured.length) {
    const label = `p50 and p95. ${measured.map((row) => `${row.name}: ${duration(row.p50)}, ${duration(row.p95)}`).join("; ")}.`;
    spans(place, label, measured);
  } else {
    nothing(place, "Nothing was answered yet.");
  }
  byId("latency-rows").replaceChildren(
    ...rows.map((row) => cells(row.name, duration(row.p50), duration(row.p95), count(row.n))));
}

function drawMoney({ money: { today, since_start: all }, upstream, budgets, started }) {
  if (!changed("money", [today, all, upstream.audit_usd, budgets])) return;
  const row = (name, first, second) => cells(el("th", { scope: "row" }, name), first, second);
  byId("money-rows").replaceChildren(
    row("Spent at the upstream", usd(today.spent), usd(all.spent)),
    row("Saved by routing and the cache", usd(today.saved), usd(all.saved)),
    row("Answers paid for", count(today.escalations), count(all.escalations)),
    row("Spent on audits", "", usd(upstream.audit_usd)),
  );
  const limits = budgets.limits.map(({ limit, usd: most, left, escalation_ratio: lasting }) =>
    `${limit}: ${usd(left)} of ${usd(most)} left` + (known(lasting) ? `, which lasts at ${share(lasting)} escalated` : ""));
  if (budgets.stale) limits.push("The store of budgets fails; these are the figures seen last.");
  byId("budgets").replaceChildren(...limits.map((text) => el("li", {}, text)));
  const none = all.spent === 0 && all.saved === 0;
  byId("money-note").textContent = none
    ? "Nothing spent or saved yet; without prices (settings upstream_price_in and upstream_price_out) it stays so."
    : `Counted by this process since ${clock(started)}.`;
}

const total = (counts) => Object.values(counts).reduce((sum, n) => sum + n, 0);

/** Whether an upstream is asked at present, and if not, why and for how long. */
function standing({ standing: state, retry_in: seconds, why }) {
  const then = seconds > 0 ? `tried again in ${count(Math.ceil(seconds))} s` : "the next query tries it";
  return {
    closed: ["good", "breaker closed"],
    half_open: ["warn", "breaker half open: one call tries it"],
    open: ["bad", `breaker open, ${then}${why ? ` (${why})` : ""}`],
    resting: ["warn", `resting as it asked, ${then}`],
  }[state];
}

function upstreamRows({ configured, members }, reasons) {
  const down = reasons.upstream_down ?? 0;
  const all = !configured ? ["none", "none is configured"] : down ? ["warn", `did not answer for ${count(down)} since start`] : ["good", "no fault since start"];
  return [["Upstream", all], ...members.map((member) => [member.name, standing(member), "member"])];
}

function drawCalls({ members }) {
  if (!changed("calls", members)) return;
  byId("calls").hidden = members.length === 0;
  byId("call-rows").replaceChildren(
    ...members.map(({ name, calls: { ok = 0, failed = 0, cut = 0, refused = 0 }, transitions: { open = 0 } }) =>
      cells(el("th", { scope: "row" }, name), count(ok - cut), count(failed + cut), count(refused), count(open))));
}

function drawHealth({ engine, upstream, cache, ledger, reasons, draining }) {
  const faults = (counts) => `${count(total(counts))} faults (${Object.entries(counts).map(([name, n]) => `${name} ${n}`).join(", ")})`;
  const { hit = 0, shared = 0 } = cache.lookups;
  const asked = total(cache.lookups);
  const load = known(engine.slots) ? `${engine.active} of ${engine.slots} slots busy, ${engine.waiting} waiting` : "its load is not known";
  const name = cache.kind === "redis" ? "Redis" : "in memory";
  const told = [
    ["Gateway", draining ? ["warn", "stopping"] : ["good", "takes requests"]],
    ["Engine", engine.alive ? ["good", load] : ["bad", engine.trouble || "does not run"]],
    ["Restarts", known(engine.restarts) ? [engine.restarts ? "warn" : "good", count(engine.restarts)] : ["none", "not known"]],
    ["Crash breaker", engine.breaker_open === null ? ["none", "not known"] : engine.breaker_open ? ["bad", "open: left alone after several crashes"] : ["good", "closed"]],
    ...upstreamRows(upstream, reasons),
    ["Cache", [total(cache.faults) ? "warn" : "good", total(cache.faults) ? `${name}, ${faults(cache.faults)}` : `${name}, no fault`]],
    ["Cache hits", asked ? ["good", `${share(hit / asked)} of ${count(asked)}; ${share(shared / asked)} joined`] : ["none", "nothing looked up yet"]],
    ["Ledger", !ledger.on ? ["none", "off"] : total(ledger.faults) ? ["warn", faults(ledger.faults)] : ["good", "no fault"]],
  ];
  drawCalls(upstream);
  if (!changed("health", told)) return;
  byId("health").replaceChildren(
    ...told.flatMap(([what, [state, text], kind]) => [el("dt", { class: kind }, what), el("dd", { class: "state", "data-state": state }, text)]));
}

function drawDrift({ live, alarm_at: alarmAt }) {
  if (!changed("drift", [live, alarmAt])) return;
  const place = byId("drift");
  if (live === null) {
    place.replaceChildren(el("p", { class: "quiet" }, "No calibration is loaded, so there is nothing to drift from."));
    return;
  }
  const { scores, calibration, on_drift: then } = live.drift;
  place.replaceChildren(
    driftTest("Scores", "Are live answers as unsure as the held-out ones?", scores, alarmAt, "too few held-out answers to compare with"),
    driftTest("P(correct)", "Are audited answers as often right as said?", calibration, alarmAt, ""),
    ...(live.control === null ? [] : [controlled(live.control)]),
    el("p", { class: "quiet" }, `On an alarm: ${ON_DRIFT[then] ?? then}.`),
  );
}

function evidence(value) {
  if (!known(value)) return "huge";
  return value < 1e6 ? grouped(value, value < 100 ? 2 : 0) : `10^${Math.floor(Math.log10(value))}`;
}

function driftTest(name, question, test, alarmAt, none) {
  const head = [el("h3", {}, name), el("p", { class: "quiet" }, question)];
  if (test === null) return el("div", { class: "drift-test" }, ...head, el("p", { class: "state", "data-state": "none" }, none));
  const [state, verdict] = test.alarm ? ["bad", "alarm"] : test.n ? ["good", "no alarm"] : ["none", "nothing compared yet"];
  const strength = Math.log10(Math.max(1, test.evidence ?? alarmAt)) / Math.log10(alarmAt);
  const said = `evidence ${evidence(test.evidence)}, alarm at ${count(alarmAt)}; ${count(test.n)} seen`;
  const gap = test.gap ? `P(correct) less what was right: ${ratio(test.gap.estimate)} (${ratio(test.gap.low)} to ${ratio(test.gap.high)})` : null;
  return el(
    "div", { class: "drift-test" }, ...head,
    el("meter", { min: 0, max: 1, high: 0.7, low: 0.4, optimum: 0, value: test.alarm ? 1 : Math.min(1, strength), "aria-label": `${name}: ${said}` }),
    el("p", { class: "state", "data-state": state }, `${verdict}: ${said}`),
    gap === null ? null : el("p", { class: "quiet" }, gap),
  );
}

function controlled(control) {
  const show = control.unit === "usd" ? usd : share;
  const so = control.ratio === null ? "no query yet" : `${show(control.ratio)} over ${count(control.n)} queries`;
  return el(
    "div", { class: "drift-test" }, el("h3", {}, "Budget"),
    el("p", {}, `${control.target}: ${show(control.allowed)} allowed on average, ${so}; threshold now ${ratio(control.threshold)}`));
}

function drawDecisions({ decisions }) {
  if (!changed("decisions", decisions)) return;
  const rows = [...decisions].reverse().map((given) => {
    const kind = given.degraded ? "degraded" : given.route;
    const route = given.degraded ? `${given.route}, degraded` : given.route;
    return cells(
      clock(given.at),
      el("td", {}, el("span", { class: `route ${kind}` }, route)),
      given.reason,
      ratio(given.p_correct), ratio(given.threshold), given.cache, duration(given.total_ms), usd(given.cost_usd),
      el("td", {}, el("code", {}, given.id ?? "–")),
    );
  });
  fillRows(byId("decision-rows"), rows, 9, "Nothing was answered yet.");
}

function explainReasons() {
  byId("why").replaceChildren(
    ...Object.entries(WHY).flatMap(([reason, meaning]) => [el("dt", {}, reason), el("dd", {}, meaning)]));
}
