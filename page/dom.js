// SPDX-License-Identifier: MIT
// Making and arranging elements, telling times, asking questions.  Text is only ever set as text.

const SVG = 'http://www.w3.org/2000/svg';
const $ = (id) => document.getElementById(id);

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Makes an element: make('a', {href: '?', onclick: fn}, 'text', child). */
const make = (tag, properties = {}, ...children) =>
  fill(document.createElement(tag), properties, children);
/** The same of a drawing. */
const draw = (tag, properties = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Makes the children of `parent` those of `items`.  Who was there keeps its element, and focus. */
function arrange(parent, items, keyOf, build, update) {
  const known = parent.known ?? new Map();
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, element] of known) if (!wanted.has(key)) element.remove();
  let place = parent.firstChild;
  for (const [key, item] of wanted) {
    const element = known.get(key) ?? build(item);
    update?.(element, item);
    wanted.set(key, element);
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  parent.known = wanted;
}

/** Calls `fn` in a frame soon, once however often it was asked for. */
function soon(fn) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    setTimeout(requestAnimationFrame, 200, () => {
      asked = false;
      fn();
    });
  };
}

// ---- Times ----

let clockOffset = 0;  // the server's clock less this one, in milliseconds
const serverNow = () => Date.now() + clockOffset;

const number = (value) => value.toLocaleString('en');
const plural = (count, what) => `${number(count)} ${what}${count === 1 ? '' : 's'}`;

/** A moment by the local clock: without the day if that is today's, or without the year. */
function moment(time) {
  const date = new Date(time), now = new Date(serverNow());
  const clock = date.toLocaleTimeString('en-GB');
  if (date.toDateString() === now.toDateString()) return clock;
  const year = date.getFullYear() === now.getFullYear() ? undefined : 'numeric';
  return `${date.toLocaleDateString('en-GB', { day: 'numeric', month: 'short', year })}, ${clock}`;
}

/** The milliseconds of a time by the local clock, as if that were UTC. */
const localMs = (time) => +new Date(time) - new Date(time).getTimezoneOffset() * 60000;

/** A duration in two units at most. */
function lasting(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const of = (size, unit, most) => `${Math.floor(seconds / size) % most} ${unit}`;
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${of(60, 'min', 60)} ${of(1, 's', 60)}`;
  if (seconds < 86400) return `${of(3600, 'h', 24)} ${of(60, 'min', 60)}`;
  return `${of(86400, 'd', 1e9)} ${of(3600, 'h', 24)}`;
}

const late = (ms) => (ms < 10000 ? `${number(ms)} ms` : lasting(ms));

function countdown(due) {
  const left = new Date(due) - serverNow();
  return left > -1000 ? `in ${lasting(left)}` : `${lasting(-left)} overdue`;
}

// ---- Telling and asking ----

let toastTimer;
function toast(text) {
  write($('toast'), text);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => write($('toast'), ''), 6000);
}

/** Runs what may be refused, and tells that. */
async function trying(fn) {
  try {
    await fn();
  } catch (error) {
    toast(error.message);
  }
}

/** Calls `fn` at each event of it, and tells what is refused. */
const on = (id, what, fn) => $(id).addEventListener(what, (event) => {
  if (what === 'submit') event.preventDefault();
  trying(() => fn(event));
});

/** Asks; null: no, else what was entered where `reason` is true, else ''. */
function question({ title, text, yes, reason = false }) {
  const dialog = $('question');
  write($('question-title'), title);
  write($('question-text'), text);
  write($('question-yes'), yes);
  $('question-field').hidden = !reason;
  $('question-value').value = '';
  dialog.returnValue = '';
  dialog.showModal();
  (reason ? $('question-value') : $('question-no')).focus();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      if (dialog.open) return;  // this is the end of a question before
      resolve(dialog.returnValue === 'yes' ? $('question-value').value : null);
    };
  });
}

on('question-no', 'click', () => $('question').close('no'));
on('question-form', 'submit', () => $('question').close('yes'));

/** Copies; over plain HTTP there is no clipboard, but the old command still works. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make('textarea', { readonly: '' });
    field.value = text;
    const before = document.activeElement;
    document.body.append(field);
    field.select();
    const copied = document.execCommand('copy');
    field.remove();
    before?.focus();
    if (!copied) return toast('This browser does not let a page copy; select the text instead.');
  }
  toast('Copied.');
}
