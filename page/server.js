// SPDX-License-Identifier: MIT
// Asking the server, with the secret where there is one, and following its event stream.

class Refusal extends Error {
  constructor(status, errors) {
    super(errors.join(' '));
    this.status = status;
    this.errors = errors;
  }
}

// The tab forgets it when it is closed.  Several schedulers may share an origin.
const secretKey = `secret ${location.pathname}`;

function headers(more = {}) {
  const secret = sessionStorage.getItem(secretKey);
  if (!secret) return more;
  // A header holds bytes, which are those of UTF-8 here.
  return { ...more, 'x-pd-secret': String.fromCharCode(...new TextEncoder().encode(secret)) };
}

let beingAsked = null;  // for the secret, by whoever comes first
function askSecret() {
  beingAsked ??= new Promise((resolve) => {
    const wrong = sessionStorage.getItem(secretKey) !== null;
    write($('secret-error'), wrong ? 'This is not the secret of this server.' : '');
    $('secret-value').value = '';
    if (!$('secret').open) $('secret').showModal();
    $('secret-value').focus();
    $('secret-form').onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(secretKey, $('secret-value').value.trim());
      $('secret').close();
      beingAsked = null;
      resolve();
    };
  });
  return beingAsked;
}
on('secret', 'cancel', (event) => event.preventDefault());

/** The answer; asks for the secret where it is missing or wrong. */
async function request(path, options) {
  for (;;) {
    const used = sessionStorage.getItem(secretKey);
    const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(30000),
      ...options, headers: headers(options.headers) });
    if (response.status !== 401) return response;
    if (used === sessionStorage.getItem(secretKey)) await askSecret();
  }
}

/** The text of a good answer; throws a Refusal for another one. */
async function ask(path, method = 'GET', body = undefined, headers = {}) {
  let response, text;
  try {
    response = await request(path, { method, body, headers });
    text = await response.text();
  } catch {
    throw new Refusal(0, ['The server does not answer.']);
  }
  if (response.ok) return text;
  let errors = [`The server answered with ${response.status}.`];
  try {
    errors = JSON.parse(text).errors ?? errors;
  } catch { /* a proxy's own words are of no use here */ }
  throw new Refusal(response.status, errors);
}

const askJson = async (...of) => JSON.parse(await ask(...of));

/** The parameters of a query, without those that are empty. */
function queryOf(values) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of [value].flat()) if (one) query.append(name, one);
  }
  return query.toString();
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The lines of a stream, which is given up after 40 s without any; one comes every 15 s. */
async function* linesOf(response, controller) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ''; ; ) {
    const timer = setTimeout(() => controller.abort(), 40000);
    const { value, done } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    yield* lines;
  }
}

/** Follows the event stream, from where it was cut off.  EventSource cannot send a header. */
async function follow({ onEvent, onGap, onState }) {
  let last, wait = 3000;
  for (;;) {
    const controller = new AbortController();
    try {
      const response = await request('sse', {
        headers: last ? { 'last-event-id': last } : {}, signal: controller.signal,
      });
      if (!response.ok) throw new Refusal(response.status, ['There is no stream.']);
      let event = {};
      for await (const line of linesOf(response, controller)) {
        const [, field, value] = /^(\w+): (.*)$/s.exec(line) ?? [];
        if (field === 'retry') wait = Number(value);
        else if (field) event[field] = value;
        if (line !== '' || event.data === undefined) continue;
        onState(true);
        last = event.id ?? last;
        if (event.event === 'gap') onGap();
        else if (!event.event) onEvent({ id: event.id, payload: event.data });
        event = {};
      }
    } catch { /* it comes back below */ }
    onState(false);
    await pause(wait);
  }
}
