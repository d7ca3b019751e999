"use strict";
// Everything on the page is made here, as elements and text: data never becomes markup.

const byId = (id) => document.getElementById(id);

function made(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const el = (name, attributes = {}, ...children) =>
  made(document.createElement(name), attributes, children);

const svg = (name, attributes = {}, ...children) =>
  made(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const cells = (...values) =>
  el("tr", {}, ...values.map((value) => (value instanceof Node ? value : el("td", {}, value))));

/** Fill a table's body, or say why it is empty. */
function fillRows(body, rows, columns, none) {
  const empty = el("tr", {}, el("td", { class: "none", colspan: columns }, none));
  body.replaceChildren(...(rows.length ? rows : [empty]));
}

const _drawn = new Map();

/** Whether `value` differs from the last one under this name: what did not change is left alone,
 *  so that a selection and the focus stay. */
function changed(name, value) {
  const text = JSON.stringify(value);
  if (_drawn.get(name) === text) return false;
  _drawn.set(name, text);
  return true;
}

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
const orNone = (value, show) => (known(value) ? show(value) : "–");
const grouped = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const count = (value) => orNone(value, (n) => grouped(n));
const share = (value) => orNone(value, (x) => `${grouped(100 * x, 1)}%`);
const ratio = (value) => orNone(value, (x) => grouped(x, 3));

/** US dollars: whole cents from ten dollars on, else three digits that say something. */
const usd = (value) =>
  orNone(value, (x) => {
    if (x === 0 || x >= 10) return `$${grouped(x, 2)}`;
    return `$${x.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: Math.max(2, 2 - Math.floor(Math.log10(x))) })}`;
  });
const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
const minuteOf = (at) => clock(at).slice(0, 5);

function duration(ms) {
  return orNone(ms, (x) => (x >= 1000 ? `${grouped(x / 1000, 2)} s` : `${grouped(x, x < 10 ? 1 : 0)} ms`));
}
