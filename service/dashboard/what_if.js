"use strict";
// What a threshold would do, by what the calibration measured and by what live answers looked like.

/** The share escalated and the accuracy among the kept at `threshold`, between measured points. */
function atThreshold(curve, threshold) {
  const above = curve.findIndex((point) => point.threshold >= threshold);
  if (above < 0) return { escalation: 1, accuracy: null };
  const [low, high] = [curve[Math.max(0, above - 1)], curve[above]];
  const part = high.threshold > low.threshold ? (threshold - low.threshold) / (high.threshold - low.threshold) : 1;
  const between = (from, to) => from + part * (to - from);
  const accuracy =
    known(low.accuracy_kept) && known(high.accuracy_kept)
      ? between(low.accuracy_kept, high.accuracy_kept)
      : part < 1 ? low.accuracy_kept : high.accuracy_kept;
  return { escalation: between(low.escalation_ratio, high.escalation_ratio), accuracy };
}

/** The threshold at which the share `escalation` is escalated. */
function thresholdFor(curve, escalation) {
  const far = (point) => Math.abs(point.escalation_ratio - escalation);
  return curve.reduce((best, point) => (far(point) < far(best) ? point : best)).threshold;
}

/** The share of live answers below `threshold`; those in its own bin count in part. */
function shareBelow(counts, threshold) {
  const n = counts.reduce((sum, some) => sum + some, 0);
  if (n === 0) return null;
  const bins = Math.min(1, threshold) * counts.length;
  const below = counts.reduce((sum, some, i) => sum + some * Math.min(1, Math.max(0, bins - i)), 0);
  return below / n;
}

/** What an escalation cost on average; null before one was paid for. */
const costOfOne = (money) => (money.escalations > 0 ? money.spent / money.escalations : null);

/** The four figures of a threshold, by the calibration's `curve` and live data. */
function expected(curve, data, threshold) {
  const measured = atThreshold(curve, threshold);
  const live = shareBelow(data.p_correct.counts, threshold);
  const price = costOfOne(data.money.since_start);
  const cost = price === null ? null : 1000 * price * (live ?? measured.escalation);
  return { threshold, ...measured, live, cost };
}
