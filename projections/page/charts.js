/* Drawings of amounts: how a cost grew, and bars by name.
 *
 * Rules: small, by hand, without a library; every drawing says the same in words beside it or in its label, and takes
 * its colours from the page's style. Amounts are doubles here: charts are for looking, tables for the numbers.
 */
'use strict';
const Charts = (() => {
  const WIDE = 400,
    HIGH = 170,
    LEFT = 52,
    BOTTOM = 22,
    TOP = 10,
    RIGHT = 10;

  /** Steps of an axis from 0 that people read easily. */
  function ticks(most, about) {
    const raw = most / about,
      size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((one) => one * size).find((one) => one >= raw) || raw;
    return Array.from({length: Math.floor(most / step + 1e-9) + 1}, (_, at) => at * step);
  }

  /** How an amount grew: `points` are `[seconds, amount]`, in order; it is drawn as steps. */
  function growth(points, label, spell) {
    const last = points.length ? points[points.length - 1] : [0, 0];
    if (!last[1]) return el('p', {class: 'nothing'}, 'Nothing was spent.');
    const span = Math.max(last[0], 1e-3),
      x = (value) => LEFT + (value / span) * (WIDE - LEFT - RIGHT);
    const y = (value) => HIGH - BOTTOM - (value / (last[1] * 1.05)) * (HIGH - BOTTOM - TOP);
    const path = points
      .map(([at, amount], n) =>
        n ? `H${x(at).toFixed(1)}V${y(amount).toFixed(1)}` : `M${x(at).toFixed(1)} ${y(amount).toFixed(1)}`,
      )
      .join('');
    const start = points[0][0];
    return svg(
      'svg',
      {
        viewBox: `0 0 ${WIDE} ${HIGH}`,
        class: 'chart',
        role: 'img',
        'aria-label': `${label}: ${spell(last[1])} after ${Say.span(last[0])}`,
      },
      ticks(last[1] * 1.05, 4).map((value) =>
        svg(
          'g',
          {class: 'grid'},
          svg('line', {x1: LEFT, x2: WIDE - RIGHT, y1: y(value), y2: y(value)}),
          svg('text', {x: LEFT - 6, y: y(value) + 3.5, 'text-anchor': 'end'}, spell(value)),
        ),
      ),
      ticks(span, 4).map((value, at, all) =>
        svg(
          'text',
          {
            class: 'tick',
            x: x(value),
            y: HIGH - 6,
            'text-anchor': at === 0 ? 'start' : at === all.length - 1 && x(value) > WIDE - 40 ? 'end' : 'middle',
          },
          Say.span(value),
        ),
      ),
      svg('path', {class: 'area', d: `${path}V${HIGH - BOTTOM}H${x(start)}Z`}),
      svg('path', {class: 'line', d: path}),
    );
  }

  /**
   * Bars by name: `rows` are `[name, [amounts], said]`, the largest first; parts of a bar have the names `parts`, which
   * are explained below where there are several.
   */
  function bars(rows, label, parts = ['']) {
    if (!rows.length) return el('p', {class: 'nothing'}, 'Nothing to show.');
    const most = Math.max(...rows.map(([, amounts]) => amounts.reduce((sum, one) => sum + one, 0)), 1e-12);
    const drawn = rows.map(([name, amounts, said]) => {
      let from = 0;
      const bar = svg(
        'svg',
        {class: 'bar', viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true'},
        svg('rect', {class: 'track', x: 0, y: 0, width: 100, height: 10}),
        amounts.map((amount, at) => {
          const width = (100 * amount) / most,
            part = svg('rect', {
              class: `part part${at}`,
              x: from,
              y: 0,
              width: amount ? Math.max(width, 0.4) : 0,
              height: 10,
            });
          from += width;
          return part;
        }),
      );
      return el(
        'div',
        {class: 'bar-row'},
        el('span', {class: 'bar-name', title: name}, Values.visible(name)),
        bar,
        el('span', {class: 'bar-said'}, said),
      );
    });
    const key =
      parts.length > 1 &&
      el(
        'p',
        {class: 'legend'},
        parts.map((name, at) => el('span', null, el('i', {class: `swatch part${at}`}), name)),
      );
    return el('div', {class: 'bars', role: 'group', 'aria-label': label}, drawn, key);
  }

  return {growth, bars};
})();
