/* Elements, and how times, amounts and names are written.
 *
 * Rules: everything that is drawn is made here, with `createElement` and text nodes: a text from the log cannot become
 * markup, whatever it says. Classes and attributes are the page's own words, never the log's. Times are shown in UTC:
 * a page is read in many places. This file does not know the run.
 */
'use strict';
const SVG = 'http://www.w3.org/2000/svg';

/** An element: `attributes` set as such, `on…` as listeners, `children` texts, elements or lists of them. */
function el(name, attributes, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** As `el`, of a drawing. */
function svg(name, attributes, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'class') element.setAttribute('class', value);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false)
      element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

const Say = (() => {
  const pad = (number, size = 2) => String(number).padStart(size, '0');
  const count = (number) => (typeof number === 'bigint' ? number : Exact.number(number)).toLocaleString('en');
  const many = (number, one, more = `${one}s`) => `${count(number)} ${Exact.number(number) === 1 ? one : more}`;

  /** Unix seconds, as a date and a time in UTC. */
  function time(seconds, exact = false) {
    if (seconds === null || seconds === undefined) return '';
    const date = new Date(Exact.number(seconds) * 1000);
    if (Number.isNaN(date.getTime())) return String(seconds);
    const day = `${date.getUTCFullYear()}-${pad(date.getUTCMonth() + 1)}-${pad(date.getUTCDate())}`;
    const clock = `${pad(date.getUTCHours())}:${pad(date.getUTCMinutes())}:${pad(date.getUTCSeconds())}`;
    return `${day} ${clock}${exact ? `.${pad(date.getUTCMilliseconds(), 3)}` : ''} UTC`;
  }

  /** Seconds, as long as a person says them. */
  function span(seconds) {
    const size = Math.abs(seconds);
    if (size < 0.0005) return '0 ms';
    if (size < 1) return `${(seconds * 1000).toFixed(size < 0.01 ? 1 : 0)} ms`;
    if (size < 60) return `${seconds.toFixed(size < 10 ? 2 : 1)} s`;
    if (size < 3600) return `${Math.floor(seconds / 60)} min ${pad(Math.floor(seconds % 60))} s`;
    if (size < 172800) return `${Math.floor(seconds / 3600)} h ${pad(Math.floor((seconds % 3600) / 60))} min`;
    return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
  }

  /** Billionths of a dollar. */
  function dollars(nano) {
    const value = Exact.number(nano) / 1e9;
    if (value === 0) return '$0';
    return `$${value.toFixed(Math.abs(value) >= 1 ? 2 : Math.abs(value) >= 0.01 ? 4 : 6)}`;
  }

  const short = (text, size = 12) => (text.length > size ? `${text.slice(0, size)}…` : text);

  /** A name of the program's own words: `tool_call_requested` as `tool call requested`. */
  const words = (name) => String(name).replaceAll('_', ' ');

  return {count, many, time, span, dollars, short, words};
})();

const MARKS = new Map(
  Object.entries({
    completed: 'good',
    SUCCEEDED: 'good',
    approved: 'good',
    allow: 'good',
    recovered: 'good',
    failed: 'bad',
    denied: 'bad',
    deny: 'bad',
    diverged: 'bad',
    PENDING_VERIFICATION: 'doubt',
    parked: 'doubt',
    expired: 'doubt',
    waiting: 'wait',
    pending: 'wait',
    RESERVED: 'wait',
    approve: 'wait',
    waiting_human: 'wait',
    waiting_tool: 'wait',
    sleeping: 'wait',
    retry_scheduled: 'wait',
    running: 'run',
    RUNNING: 'run',
    COMPENSATED: 'plain',
    cancelled: 'plain',
    FAILED_NO_EFFECT: 'plain',
    withdrawn: 'plain',
  }),
);
const WORDS = new Map(Object.entries({PENDING_VERIFICATION: 'in doubt', FAILED_NO_EFFECT: 'failed, no effect'}));

/** A status as a mark; one that is not known is shown as it is. */
function mark(status) {
  if (status === null || status === undefined || status === '') return '';
  const said = WORDS.get(status) || Say.words(status).toLowerCase();
  return el('span', {class: `mark ${MARKS.get(status) || 'plain'}`}, said);
}

/** A button that opens an event in the timeline; the page listens for `data-go`. */
function go(seq, text) {
  return el('button', {type: 'button', class: 'go', 'data-go': seq, title: `Go to event ${seq}`}, text || `${seq}`);
}

/** A text that can be taken along with one click; where the browser has no clipboard, it is selected. */
function copyable(text, label) {
  const code = el('code', {class: 'copy-text'}, text);
  const button = el('button', {type: 'button', class: 'copy', 'aria-label': `Copy ${label}`}, 'Copy');
  button.addEventListener('click', () => {
    const range = document.createRange();
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    if (navigator.clipboard)
      navigator.clipboard.writeText(text).then(
        () => (button.textContent = 'Copied'),
        () => {},
      );
  });
  return el('span', {class: 'copyable'}, code, button);
}
