// SPDX-License-Identifier: MIT
// Cuts JSON into pieces without changing them.  JSON.parse would round big integers, sort keys
// that look like numbers, drop repeated ones and resolve escapes; a message is shown as it was sent.
'use strict';

/** Where the string that begins at `start` ends: behind its closing quote. */
function endOfString(text, start) {
  const stops = /["\\]/g;
  stops.lastIndex = start + 1;
  for (let found; (found = stops.exec(text)); ) {
    if (found[0] === '"') return stops.lastIndex;
    stops.lastIndex += 1;  // what is escaped does not count
  }
  return text.length;
}

/** The members of an object, or the elements of an array, as pairs of a key and its text. */
function piecesOf(text) {
  const pieces = [];
  const marks = /["{}[\],:]/g;
  let depth = 0, start = 0, key = null;
  for (let found; (found = marks.exec(text)); ) {
    const mark = found[0];
    if (mark === '"') {
      marks.lastIndex = endOfString(text, found.index);
    } else if (mark === '{' || mark === '[') {
      if (depth++ === 0) start = marks.lastIndex;
    } else if (mark === ':') {
      if (depth !== 1) continue;
      key = JSON.parse(text.slice(start, found.index));
      start = marks.lastIndex;
    } else {
      const isEnd = mark !== ',';
      if (isEnd) depth -= 1;
      if (depth !== (isEnd ? 0 : 1)) continue;
      const piece = text.slice(start, found.index).trim();
      if (piece) pieces.push([key, piece]);
      start = marks.lastIndex;
    }
  }
  return pieces;
}

/** A task, an event or a dead letter of an answer; its payload stays text. */
function readItem(text) {
  const item = {};
  for (const [key, piece] of piecesOf(text)) {
    item[key] = key === 'payload' ? piece : JSON.parse(piece);
  }
  const members = piecesOf(item.payload);
  const member = (name) => members.find(([key]) => key === name)?.[1];
  item.message = member('message') ?? item.payload;
  const topic = member('topic');
  if (topic?.startsWith('"')) item.topic = JSON.parse(topic);
  return item;
}

/** A page of an answer: {info, data}. */
function readPage(text) {
  const members = Object.fromEntries(piecesOf(text));
  return {
    info: JSON.parse(members.page_info),
    data: piecesOf(members.data).map(([, piece]) => readItem(piece)),
  };
}

/** The beginning of a message in one line; a string without its quotes. */
function preview(message) {
  const start = message.slice(0, 300);
  if (!start.startsWith('"')) return start;
  if (message.length > 300) return start.slice(1).replace(/\\[nrt]/g, ' ');
  return JSON.parse(message).replace(/\s/g, ' ');
}
