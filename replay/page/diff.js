/* What moves on the page of a comparison: the filter, opening, going from difference to difference, dark and light.
 *
 * Rules: everything is on the page already; this hides, opens and scrolls. Nothing is made of any text.
 */
'use strict';
(() => {
  const root = document.documentElement,
    body = document.body;
  const button = (id) => document.getElementById(id);
  const rows = [...document.querySelectorAll('details.row')];
  let at = -1;

  function pressed(id, on) {
    button(id).setAttribute('aria-pressed', String(on));
    return on;
  }

  function only() {
    pressed('only', body.classList.toggle('only'));
  }

  function open() {
    const on = pressed('open', button('open').getAttribute('aria-pressed') !== 'true');
    for (const row of rows) row.open = on;
  }

  function go(by) {
    if (!rows.length) return;
    if (at >= 0) rows[at].classList.remove('here');
    at = at < 0 && by < 0 ? rows.length - 1 : (at + by + rows.length) % rows.length;
    rows[at].classList.add('here');
    rows[at].open = true;
    rows[at].scrollIntoView({block: 'center'});
    rows[at].querySelector('summary').focus({preventScroll: true});
  }

  function theme() {
    const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = dark ? 'light' : 'dark';
  }

  const does = {only, open, theme, before: () => go(-1), next: () => go(1)};
  const keys = {d: 'only', o: 'open', k: 'before', j: 'next', t: 'theme'};
  for (const id of Object.keys(does)) button(id).addEventListener('click', does[id]);
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    does[keys[event.key]]();
  });
  if (rows.length && rows.length <= 12) for (const row of rows) row.open = true;
  if (rows.length && rows.length <= 12) pressed('open', true);
  for (const id of ['only', 'open', 'before', 'next']) button(id).disabled = !rows.length && id !== 'only';
  root.dataset.ready = 'true';
})();
