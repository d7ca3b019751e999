"use strict";
// Asks the gateway every few seconds, and lets the operator pause, give a key, and ask "what if?".

const EVERY_MS = 3000;
const PATIENCE_MS = 10000;
const KEY = "router-dashboard-key";

const page = { data: null, calibration: null, wanted: null, pick: null, paused: false, timer: null, refused: false };

class Refused extends Error {}

async function ask(path) {
  const key = sessionStorage.getItem(KEY);
  const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
  const response = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (response.ok) return response.json();
  const told = await response.json().catch(() => null);
  const message = told?.error?.message ?? `The gateway answered ${response.status}.`;
  throw response.status === 401 || response.status === 403 ? new Refused(message) : new Error(message);
}

async function refresh() {
  clearTimeout(page.timer);
  try {
    const data = await ask("/v1/dashboard");
    if (data.calibration === null) page.calibration = null;
    else if (page.calibration?.id !== data.calibration) page.calibration = (await ask("/v1/calibration")).calibration;
    page.data = data;
    page.refused = false;
    draw();
    say("live", page.paused ? "Paused" : "Live");
  } catch (error) {
    if (error instanceof Refused) refused(error.message);
    else say("trouble", `No news: ${error.name === "TimeoutError" ? "the gateway does not answer" : error.message}`);
  }
  clearTimeout(page.timer);
  if (!page.paused && !page.refused && !document.hidden) page.timer = setTimeout(refresh, EVERY_MS);
}

function draw() {
  const { data, calibration } = page;
  const inForce = data.live?.control?.threshold ?? calibration?.threshold ?? null;
  byId("about").textContent = `${data.engine.model}, one process, since ${new Date(data.started * 1000).toLocaleString("en-GB")}`;
  drawTiles(data);
  drawRouting(data);
  drawHealth(data);
  page.pick = drawCurve(data, calibration, inForce, page.wanted) ?? page.pick;
  drawConfidence(data, calibration, page.wanted ?? inForce);
  drawLatency(data);
  drawMoney(data);
  drawDrift(data);
  drawDecisions(data);
}

/** Say it once: a status that is repeated would be read aloud again and again. */
function say(state, text) {
  const status = byId("status");
  if (status.textContent !== text) status.textContent = text;
  status.dataset.state = page.paused && state === "live" ? "paused" : state;
}

function refused(message) {
  const first = !page.refused;
  page.refused = true;
  say("trouble", message);
  showKeyForm(true);
  if (first) byId("key").focus();
}

function showKeyForm(shown) {
  byId("key-form").hidden = !shown;
  byId("key-open").setAttribute("aria-expanded", String(shown));
  byId("key-forget").disabled = sessionStorage.getItem(KEY) === null;
}

function imagine(threshold) {
  page.wanted = threshold;
  if (page.data !== null) draw();
}

function listen() {
  byId("threshold").addEventListener("input", (event) => imagine(Number(event.target.value)));
  byId("threshold-reset").addEventListener("click", () => {
    imagine(null);
    byId("threshold").focus();
  });
  const chart = byId("curve-chart");
  const drag = (event) => {
    if (event.buttons !== 1 || page.pick === null || byId("threshold").disabled) return;
    imagine(Math.min(1, page.pick(event.clientX)));
  };
  chart.addEventListener("pointerdown", (event) => {
    chart.setPointerCapture(event.pointerId);
    drag(event);
  });
  chart.addEventListener("pointermove", drag);

  byId("pause").addEventListener("click", (event) => {
    page.paused = !page.paused;
    event.currentTarget.setAttribute("aria-pressed", String(page.paused));
    say("live", page.paused ? "Paused" : "Live");
    if (page.paused) clearTimeout(page.timer);
    else refresh();
  });
  byId("key-open").addEventListener("click", () => showKeyForm(byId("key-form").hidden));
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, byId("key").value.trim());
    byId("key").value = "";
    showKeyForm(false);
    refresh();
  });
  byId("key-forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    showKeyForm(false);
    refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(page.timer);
    else if (!page.paused) refresh();
  });
  let width = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width === width) return;
    width = contentRect.width;
    _drawn.clear();
    if (page.data !== null) draw();
  }).observe(byId("main"));
}

explainReasons();
listen();
refresh();
