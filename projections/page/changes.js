/* What an event changed: the differences of two documents, and of two texts.
 *
 * Rules: parts that two documents share are not looked at, so a difference costs what changed. A text of many lines is
 * compared line by line, another one word by word; texts that are too large for that are shown before and after. This
 * file does not know what the documents mean.
 */
'use strict';
const Changes = (() => {
  const MOST = 400,
    CELLS = 250000;

  /** `[{place: [names], before, after}, …]`; an absent side is undefined. */
  function between(before, after, place = [], found = []) {
    if (before === after || found.length >= MOST) return found;
    if (Exact.isMap(before) && Exact.isMap(after)) {
      for (const name of new Set([...Object.keys(before), ...Object.keys(after)]))
        between(before[name], after[name], [...place, name], found);
    } else if (Array.isArray(before) && Array.isArray(after)) {
      for (let at = 0; at < Math.max(before.length, after.length); at++)
        between(before[at], after[at], [...place, at], found);
    } else if (!(before !== undefined && after !== undefined && Exact.same(before, after)))
      found.push({place, before, after});
    return found;
  }

  /** Parts of two texts, in order: `['same' | 'gone' | 'new', text]`; null if they are too large to compare. */
  function parts(before, after) {
    const lines = before.includes('\n') || after.includes('\n');
    const cut = (text) => (lines ? text.split(/(?<=\n)/) : text.split(/(?<=\s)/));
    const a = cut(before),
      b = cut(after);
    let start = 0,
      end = 0;
    while (start < a.length && start < b.length && a[start] === b[start]) start++;
    while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
    const left = a.slice(start, a.length - end),
      right = b.slice(start, b.length - end);
    if (left.length * right.length > CELLS) return null;
    const found = [
      ['same', a.slice(0, start).join('')],
      ...common(left, right),
      ['same', a.slice(a.length - end).join('')],
    ];
    return joined(found.filter(([, text]) => text));
  }

  /** The longest common sequence, in O(n·m). */
  function common(a, b) {
    const width = b.length + 1,
      table = new Uint32Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        table[i * width + j] =
          a[i] === b[j]
            ? table[(i + 1) * width + j + 1] + 1
            : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
      }
    }
    const found = [];
    let i = 0,
      j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) {
        found.push(['same', a[i++]]);
        j++;
      } else if (j >= b.length || (i < a.length && table[(i + 1) * width + j] >= table[i * width + j + 1]))
        found.push(['gone', a[i++]]);
      else found.push(['new', b[j++]]);
    }
    return found;
  }

  function joined(found) {
    const out = [];
    for (const [kind, text] of found) {
      if (out.length && out[out.length - 1][0] === kind) out[out.length - 1][1] += text;
      else out.push([kind, text]);
    }
    return out;
  }

  const isText = (value) => typeof value === 'string' && (value.includes('\n') || value.length > 60);

  /** Two texts as one, with what is gone and what is new. */
  function texts(before, after) {
    const found = parts(before, after);
    if (found === null) return [side('gone', before), side('new', after)];
    return el(
      'pre',
      {class: 'texts', dir: 'auto'},
      found.map(([kind, text], at) => {
        const size = 240,
          edge = at === 0 ? `…${text.slice(-size)}` : at === found.length - 1 ? `${text.slice(0, size)}…` : null;
        const shown = kind === 'same' && text.length > size + 1 && edge ? edge : text;
        return kind === 'same'
          ? Values.visible(shown)
          : el(kind === 'gone' ? 'del' : 'ins', null, Values.visible(shown));
      }),
    );
  }

  const where = (kind, place) => [
    el('span', {class: 'kind'}, kind),
    place.map((name, at) => [at ? el('i', null, '›') : '', el('span', null, Values.visible(String(name)))]),
  ];

  /** A difference of two small values, in one line. */
  const inline = (kind, place, before, after) =>
    el(
      'li',
      {class: kind},
      el(
        'div',
        {class: 'where'},
        where(kind, place),
        before === undefined ? null : el('del', null, Values.tree(before)),
        before === undefined || after === undefined ? null : el('i', null, '→'),
        after === undefined ? null : el('ins', null, Values.tree(after)),
      ),
    );

  const side = (kind, value) =>
    el(
      'div',
      {class: `side ${kind}`},
      el('span', {class: 'sign', 'aria-label': kind === 'gone' ? 'before' : 'after'}, kind === 'gone' ? '−' : '+'),
      Values.tree(value, {levels: 1}),
    );

  /** Differences as a list. */
  function view(found, nothing) {
    if (!found.length) return el('p', {class: 'nothing'}, nothing);
    const rows = found.slice(0, MOST).map(({place, before, after}) => {
      const kind = before === undefined ? 'added' : after === undefined ? 'removed' : 'changed';
      const small = (value) => value === undefined || (!Values.isTree(value) && !isText(value));
      if (small(before) && small(after)) return inline(kind, place, before, after);
      const body =
        kind === 'changed' &&
        typeof before === 'string' &&
        typeof after === 'string' &&
        (isText(before) || isText(after))
          ? texts(before, after)
          : [before === undefined ? null : side('gone', before), after === undefined ? null : side('new', after)];
      return el('li', {class: kind}, el('div', {class: 'where'}, where(kind, place)), body);
    });
    if (found.length >= MOST) rows.push(el('li', {class: 'nothing'}, `Only the first ${MOST} differences are shown.`));
    return el('ul', {class: 'changes'}, rows);
  }

  return {between, parts, view};
})();
