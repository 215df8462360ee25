// SPDX-License-Identifier: MIT
//
// The clients of other makers: Node's fetch, the npm package eventsource, and a page
// in Chromium.
//
//   node clients.mjs arrive URL SECONDS   schedules a task that far ahead; prints, as
//                                         JSON, when it came to each subscriber
//   node clients.mjs follow URL COUNT     prints the messages of a subscriber, a line
//                                         each, across restarts of the server

import { EventSource } from 'eventsource';

const [, , what, url, number] = process.argv;

function nextEvent(source) {
  return new Promise((resolve, reject) => {
    source.onmessage = (event) => resolve({ id: event.lastEventId, at: Date.now(), data: event.data });
    setTimeout(() => reject(new Error('no event came')), Number(number) * 1000 + 10000).unref();
  });
}

function opened(source) {
  return new Promise((resolve) => source.addEventListener('cursor', resolve, { once: true }));
}

async function arrive() {
  const { chromium } = await import('playwright-core');
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  const page = await browser.newPage();
  await page.goto(`${url}/healthz`);
  await page.evaluate(() => new Promise((resolve) => {
    window.source = new EventSource('/sse');
    window.event = new Promise((done) => {
      window.source.onmessage = (event) =>
        done({ id: event.lastEventId, at: Date.now(), data: event.data });
    });
    window.source.addEventListener('cursor', resolve, { once: true });
  }));
  const source = new EventSource(`${url}/sse`);
  await opened(source);
  const due = Date.now() + Number(number) * 1000;
  const event = nextEvent(source);
  const answer = await fetch(`${url}/schedule`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ timestamp: new Date(due).toISOString(), message: { name: 'Luke', title: 'Jedi' } }),
  });
  const scheduled = { status: answer.status, ...await answer.json() };
  const node = await event;
  const chromiumEvent = await page.evaluate(() => window.event);
  source.close();
  await browser.close();
  console.log(JSON.stringify({ due, scheduled, node, chromium: chromiumEvent }));
}

function follow() {
  const source = new EventSource(`${url}/sse`);
  let left = Number(number);
  source.addEventListener('cursor', () => console.log('connected'));
  source.onmessage = (event) => {
    console.log(JSON.parse(event.data).message);
    if (--left === 0) source.close();
  };
}

await (what === 'arrive' ? arrive() : follow());
