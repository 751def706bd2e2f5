/* Lists that are longer than a screen: rows that are drawn only while they are seen, and tables that come in pages.
 *
 * Rules: a `Window` has rows of one height, and draws those in view and a few more: it costs the same with five
 * thousand rows as with fifty. It is a list box, or a tree: arrow keys, Home, End, PageUp and PageDown move in it. A
 * `table` is a real table, a page of rows at a time; on a narrow screen its style makes cards of the rows. Both are
 * drawn whole when the page is printed (`printed`). This file does not know what a row says.
 */
'use strict';
const Lists = (() => {
  const MARGIN = 8,
    PAGE = 25;
  const printers = [];

  /** Rows of one height in a box that scrolls. `draw(at)` makes a row; `chosen(at)` is told when one is chosen. */
  class Window {
    constructor({label, role = 'listbox', draw, chosen, key}) {
      this.draw = draw;
      this.chosen = chosen;
      this.key = key;
      this.role = role;
      this.size = 0;
      this.active = -1;
      this.rows = new Map();
      this.space = el('div', {class: 'space', role: 'presentation'});
      this.box = el('div', {class: 'window', tabindex: '0', role, 'aria-label': label}, this.space);
      [this.height, this.view, this.top] = [28, 400, 0];
      const scrolled = () => {
        this.top = this.box.scrollTop;
        this.later();
      };
      this.box.addEventListener('scroll', scrolled, {passive: true});
      this.box.addEventListener('keydown', (event) => this.pressed(event));
      this.box.addEventListener('click', (event) => {
        const row = event.target.closest('[data-row]');
        if (row && !event.target.closest('button')) this.choose(Number(row.dataset.row));
      });
      new ResizeObserver(() => this.measure()).observe(this.box);
    }

    /** Sizes are read when they change, and not while rows are drawn: reading them has the page laid out. */
    measure() {
      const height = parseFloat(getComputedStyle(this.box).getPropertyValue('--row')) || 28;
      [this.view, this.top] = [this.box.clientHeight || 400, this.box.scrollTop];
      if (height !== this.height) for (const row of this.rows.values()) row.remove();
      if (height !== this.height) this.rows.clear();
      this.height = height;
      this.show();
    }

    later() {
      if (!this.waiting) this.waiting = requestAnimationFrame(() => this.show());
    }

    /** Other rows, or as many others: all are drawn again. */
    fill(size) {
      this.size = size;
      for (const row of this.rows.values()) row.remove();
      this.rows.clear();
      this.show();
    }

    show() {
      this.waiting = 0;
      const {height, view, top} = this;
      this.space.style.height = `${this.size * height}px`;
      const from = Math.max(0, Math.floor(top / height) - MARGIN);
      const until = Math.min(this.size, Math.ceil((top + view) / height) + MARGIN);
      for (const [at, row] of this.rows) {
        if (at >= from && at < until) continue;
        row.remove();
        this.rows.delete(at);
      }
      for (let at = from; at < until; at++) if (!this.rows.has(at)) this.add(at, height);
    }

    add(at, height) {
      const row = this.draw(at);
      row.dataset.row = at;
      row.id = `${this.box.id}-${at}`;
      row.style.top = `${at * height}px`;
      row.setAttribute('role', this.role === 'tree' ? 'treeitem' : 'option');
      row.setAttribute('aria-selected', String(at === this.active));
      if (this.role !== 'tree') {
        row.setAttribute('aria-posinset', at + 1);
        row.setAttribute('aria-setsize', this.size);
      }
      this.rows.set(at, row);
      this.space.append(row);
    }

    /** Mark a row, and bring it into view; -1 marks none. */
    mark(at, scroll = true) {
      const before = this.rows.get(this.active);
      if (before) before.setAttribute('aria-selected', 'false');
      this.active = at;
      if (at < 0) return this.box.removeAttribute('aria-activedescendant');
      const {height, view} = this,
        place = at * height;
      if (scroll && (place < this.top || place + height > this.top + view)) {
        this.top = Math.max(0, Math.min(place - view / 2 + height / 2, this.size * height - view));
        this.show();
        this.box.scrollTop = this.top;
      }
      const row = this.rows.get(at);
      if (row) row.setAttribute('aria-selected', 'true');
      return this.box.setAttribute('aria-activedescendant', `${this.box.id}-${at}`);
    }

    choose(at) {
      if (at < 0 || at >= this.size) return;
      this.mark(at);
      if (this.chosen) this.chosen(at);
    }

    pressed(event) {
      if (event.target !== this.box || event.altKey || event.ctrlKey || event.metaKey) return;
      const page = Math.max(1, Math.floor(this.view / this.height) - 1),
        last = this.size - 1;
      const to = {
        ArrowDown: this.active + 1,
        ArrowUp: this.active - 1,
        PageDown: this.active + page,
        PageUp: this.active - page,
        Home: 0,
        End: last,
      }[event.key];
      if (to !== undefined) this.choose(Math.max(0, Math.min(last, to)));
      else if (!this.key || !this.key(event, this.active)) return;
      event.preventDefault();
    }
  }

  /**
   * A table of rows. `columns`: `[title, cell(row), class]`; a cell is a text, an element or a list of them. An empty
   * table is the sentence `nothing`.
   */
  function table(caption, rows, columns, nothing) {
    if (!rows.length) return el('p', {class: 'nothing'}, nothing);
    const body = el('tbody');
    const shown = el('span', {class: 'shown'});
    const back = el('button', {type: 'button'}, '‹ Previous'),
      next = el('button', {type: 'button'}, 'Next ›');
    let page = 0;
    const made = (row) =>
      el(
        'tr',
        null,
        columns.map(([title, cell, kind]) => {
          const said = cell(row),
            empty = said === '' || said === null || said === undefined;
          return el(
            'td',
            {'data-label': title, class: [kind, empty && 'empty'].filter(Boolean).join(' ') || null},
            el('div', null, said),
          );
        }),
      );
    function draw(all = false) {
      const from = all ? 0 : page * PAGE,
        until = all ? rows.length : Math.min(rows.length, from + PAGE);
      body.replaceChildren(...rows.slice(from, until).map(made));
      shown.textContent = `${Say.count(from + 1)}–${Say.count(until)} of ${Say.count(rows.length)}`;
      [back.disabled, next.disabled] = [page === 0, until === rows.length];
    }
    back.addEventListener('click', () => page--);
    next.addEventListener('click', () => page++);
    for (const button of [back, next]) button.addEventListener('click', () => draw());
    draw();
    if (rows.length > PAGE) printers.push((print) => draw(print));
    return el(
      'div',
      {class: 'table'},
      el(
        'table',
        null,
        el('caption', null, caption),
        el(
          'thead',
          null,
          el(
            'tr',
            null,
            columns.map(([title, , kind]) => el('th', {scope: 'col', class: kind}, title)),
          ),
        ),
        body,
      ),
      rows.length > PAGE && el('div', {class: 'pages'}, back, shown, next),
    );
  }

  /** Have `act(true)` called before the page is printed, and `act(false)` after. */
  const printed = (act) => printers.push(act);
  let printing = false;
  function print(on) {
    if (on === printing) return;
    printing = on;
    for (const act of printers) act(on);
  }
  addEventListener('beforeprint', () => print(true));
  addEventListener('afterprint', () => print(false));
  matchMedia('print').addEventListener('change', (event) => print(event.matches));

  return {Window, table, printed};
})();
