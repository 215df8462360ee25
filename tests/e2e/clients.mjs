// SPDX-License-Identifier: MIT
//
// The clients of other makers.  Each prints one JSON object a line:
//
//   node clients.mjs schedule URL SECONDS  posts a task with Node's fetch: {due, status, answer}
//   node clients.mjs listen URL [QUERY]    the npm package eventsource
//   node clients.mjs page URL              a page in headless Chromium with its own EventSource
//   node clients.mjs verify FILE           the npm package standardwebhooks: true for each secret
//                                          of each request in the file, false for a forged one
//   node clients.mjs cloudevents FILE      the npm package cloudevents: each event of each request in
//                                          the file, once it has passed the package's own check
//
// A listener prints {"open": true} at each (re)connect, then {id, data, at} for every message, and
// goes on until it is killed or its standard input ends (so that none outlives a killed test).

import { readFileSync } from 'node:fs';

const [, , what, url, third = ''] = process.argv;
const print = (object) => console.log(JSON.stringify(object));
const untilInputEnds = () => new Promise((resolve) => process.stdin.on('end', resolve).resume());

async function schedule() {
  const due = Date.now() + Number(third) * 1000;
  const response = await fetch(`${url}/schedule`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({
      timestamp: new Date(due).toISOString(),
      message: { name: 'Luke', title: 'Jedi' },
    }),
  });
  print({ due, status: response.status, answer: await response.json() });
}

async function listen() {
  const { EventSource } = await import('eventsource');
  const source = new EventSource(`${url}/sse${third}`);
  source.addEventListener('cursor', () => print({ open: true }));
  source.onmessage = (event) => print({ id: event.lastEventId, data: event.data, at: Date.now() });
  await untilInputEnds();
  source.close();
}

async function page() {
  const { chromium } = await import('playwright-core');
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // Headless is Playwright's default.  The rest keeps the browser from calling home.
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
      '--disable-default-apps', '--disable-dev-shm-usage',
    ],
  });
  const tab = await browser.newPage({ ignoreHTTPSErrors: url.startsWith('https:') });
  await tab.exposeFunction('report', print);
  // Any page of the server's own makes the EventSource one of the same origin.
  await tab.goto(`${url}/healthz`);
  await tab.evaluate(() => {
    const source = new EventSource('/sse');
    source.addEventListener('cursor', () => window.report({ open: true }));
    source.onmessage = (event) =>
      window.report({ id: event.lastEventId, data: event.data, at: Date.now() });
  });
  await untilInputEnds();
  await browser.close();
}

async function verify() {
  const { Webhook } = await import('standardwebhooks');
  const good = (body, headers, secret) => {
    try {
      new Webhook(secret).verify(body, headers);
      return true;
    } catch {
      return false;
    }
  };
  const requests = JSON.parse(readFileSync(url, 'utf8'));
  for (const { body, headers, secrets } of requests) {
    for (const secret of secrets) print(good(body, headers, secret));
  }
  const { body, headers, secrets } = requests[0];
  print(good(body + ' ', headers, secrets[0]));
  print(good(body, { ...headers, 'webhook-id': 'another' }, secrets[0]));
}

async function cloudevents() {
  const { HTTP } = await import('cloudevents');
  for (const { body, headers } of JSON.parse(readFileSync(url, 'utf8'))) {
    for (const event of [HTTP.toEvent({ body, headers })].flat()) {
      event.validate();
      print(event);
    }
  }
}

await { schedule, listen, page, verify, cloudevents }[what]();
process.exit(0);
