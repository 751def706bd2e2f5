/* Documents as trees that open: any JSON, however large, deep or hostile.
 *
 * Rules: what is closed is not drawn, so a document costs what is seen of it. Long texts are cut with a button for the
 * rest, long lists come in parts. Texts are shown with what a reader cannot see made visible: controls, and marks that
 * turn the direction of writing, which could make a text read as another. What a reader opened stays open at its place
 * (`opened`). Messages that were said before can be looked up with `resolve`.
 */
'use strict';
const Values = (() => {
  const LONG = 1200,
    PART = 60,
    LEVELS = 2;
  const HIDDEN = new RegExp(
    '[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u061c\\u200b\\u200e\\u200f' +
      '\\u2028-\\u202e\\u2060\\u2066-\\u2069\\ufeff]',
    'g',
  );

  /** A text with what is invisible in it made visible. */
  const visible = (text) =>
    text.replace(HIDDEN, (one) => `⟨U+${one.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}⟩`);

  /** A text in full, or its beginning with a button for the rest. */
  function long(text, size = LONG) {
    if (text.length <= size) return el('span', {class: 'text', dir: 'auto'}, visible(text));
    const shown = el('span', {class: 'text', dir: 'auto'}, visible(text.slice(0, size)));
    const more = el('button', {type: 'button', class: 'more'}, `… all ${Say.count(text.length)} characters`);
    more.addEventListener('click', () => {
      shown.textContent = visible(text);
      more.remove();
    });
    return el('span', null, shown, more);
  }

  function leaf(value) {
    if (value === null) return el('span', {class: 'word'}, 'null');
    if (typeof value === 'boolean') return el('span', {class: 'word'}, String(value));
    if (typeof value === 'string')
      return Shown.UNSAID.includes(value) ? el('span', {class: 'unsaid'}, value) : long(value);
    return el('span', {class: 'number'}, String(value));
  }

  /** What a closed document says of itself. */
  function gist(value) {
    if (Array.isArray(value)) return value.length ? Say.many(value.length, 'item') : 'empty list';
    const names = Object.keys(value);
    if (!names.length) return 'empty';
    const some = names
      .slice(0, 4)
      .map((name) => visible(Say.short(name, 24)))
      .join(', ');
    return names.length > 4 ? `${some}, … ${names.length} in all` : some;
  }

  const isTree = (value) => Array.isArray(value) || Exact.isMap(value);

  /**
   * A document as rows. `options`: `opened`, a Map from place to open or not; `resolve(mark)`, the messages that a mark
   * stands for; `levels`, how many are open by themselves.
   */
  function tree(value, options = {}, place = '$', level = 0) {
    if (!isTree(value)) return leaf(value);
    const entries = Array.isArray(value) ? value.map((one, at) => [at, one]) : Object.entries(value);
    const list = el('ul', {class: 'tree'});
    let drawn = 0;
    const more = el('button', {type: 'button', class: 'more'});
    function draw() {
      const until = Math.min(entries.length, drawn + PART);
      for (; drawn < until; drawn++) list.append(...rows(entries[drawn], options, place, level, Array.isArray(value)));
      if (drawn < entries.length) {
        more.textContent = `… ${Say.count(entries.length - drawn)} more`;
        list.append(el('li', null, more));
      }
    }
    more.addEventListener('click', () => {
      more.parentElement.remove();
      draw();
    });
    draw();
    return list;
  }

  function rows([name, value], options, place, level, isList) {
    const here = `${place}.${name}`;
    const before = options.resolve && Exact.isMap(value) ? options.resolve(value) : null;
    if (before) return [branch(`${before.length} said before`, before, options, here, level, true, 'before')];
    const key = isList ? String(name) : visible(name);
    if (isTree(value)) return [branch(key, value, options, here, level, isList)];
    return [el('li', null, el('span', {class: isList ? 'index' : 'key'}, key), leaf(value))];
  }

  /** A row that opens; its inside is drawn when it does. */
  function branch(key, value, options, place, level, isList, kind = '') {
    const size = Array.isArray(value) ? value.length : Object.keys(value).length;
    const details = el(
      'details',
      {class: kind},
      el('summary', null, el('span', {class: isList ? 'index' : 'key'}, key), el('span', {class: 'gist'}, gist(value))),
    );
    const fill = () => {
      if (details.childElementCount === 1) details.append(tree(value, options, place, level + 1));
    };
    const opened = options.opened && options.opened.get(place);
    const byItself =
      kind !== 'before' && size > 0 && size <= 12 && level < (options.levels === undefined ? LEVELS : options.levels);
    if (opened === undefined ? byItself : opened) {
      details.open = true;
      fill();
    }
    details.addEventListener('toggle', () => {
      if (details.open) fill();
      if (options.opened) options.opened.set(place, details.open);
    });
    return el('li', null, details);
  }

  /** A value in one line, for a row of a table. */
  function line(value, size = 120) {
    if (value === null || value === undefined) return '';
    const text = typeof value === 'string' ? value : spelled(value, size);
    return visible(Say.short(text.replace(/\s+/g, ' '), size));
  }

  /** The beginning of a document's JSON: no more of it is spelled than is shown. */
  function spelled(value, size) {
    let text = '';
    for (const piece of Exact.canonical(value)) {
      text += piece;
      if (text.length > size) break;
    }
    return text;
  }

  return {tree, line, long, visible, isTree};
})();
