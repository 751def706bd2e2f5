/* The page: its sections, its keys, and the check that runs by itself.
 *
 * Rules: sections are drawn first, then the check begins, so that a reader never waits. A section that cannot be drawn
 * says so in its place; the others stand. Nothing is remembered: no storage, no address, no network.
 */
'use strict';
(() => {
  const read = (id) => Exact.parse(document.getElementById(id).textContent);
  const SECTIONS = [
    ['overview', 'Overview'],
    ['timeline', 'Timeline and state'],
    ['effects', 'Steps and effects'],
    ['ledger', 'Tool ledger'],
    ['approvals', 'Approvals'],
    ['costs', 'Costs'],
    ['failures', 'Failures'],
    ['kept', 'Children and artifacts'],
    ['events', 'Events'],
  ];
  const KEYS = [
    ['1 … 9', 'go to a section'],
    ['/', 'search events'],
    ['← → Home End', 'move the slider'],
    ['PageUp PageDown', 'move it further'],
    ['[ and ]', 'event before, next event'],
    ['t', 'dark or light'],
    ['?', 'show or hide these keys'],
    ['Esc', 'leave'],
  ];

  const main = document.getElementById('main'),
    parts = Report.banner();

  function section(id, title, number, children) {
    return el(
      'section',
      {id, 'aria-labelledby': `${id}-title`, tabindex: '-1'},
      el('h2', {id: `${id}-title`}, el('span', {class: 'number', 'aria-hidden': 'true'}, number), title),
      children,
    );
  }

  /** What a section shows; a section that cannot be drawn does not take the page with it. */
  function drawn(make) {
    try {
      return make();
    } catch (error) {
      console.error(error);
      return el('p', {class: 'broken'}, `This part cannot be shown: ${error.message}`);
    }
  }

  function theme() {
    const root = document.documentElement,
      dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = dark ? 'light' : 'dark';
  }

  function header(bundle) {
    const keys = el(
      'dialog',
      {id: 'keys', 'aria-label': 'Keys'},
      el('h2', null, 'Keys'),
      el(
        'dl',
        null,
        KEYS.map(([key, what]) => el('div', null, el('dt', null, el('kbd', null, key)), el('dd', null, what))),
      ),
      el('button', {type: 'button', onclick: () => keys.close()}, 'Close'),
    );
    document
      .getElementById('top')
      .append(
        el(
          'div',
          {class: 'brand'},
          el('span', {class: 'maker'}, 'AgentLedger evidence'),
          el('h1', null, Values.visible(String(bundle.run_id))),
          mark(bundle.summary.status),
        ),
        el(
          'div',
          {class: 'actions'},
          el(
            'a',
            {class: 'state-of-check', href: '#check'},
            el('span', {class: 'light', 'aria-hidden': 'true'}),
            el('span', {id: 'check-short'}, 'Checking'),
          ),
          el(
            'button',
            {type: 'button', id: 'theme', onclick: theme, title: 'Dark or light (t)', 'aria-label': 'Dark or light'},
            '◐',
          ),
          el(
            'button',
            {type: 'button', onclick: () => keys.showModal(), title: 'Keys (?)', 'aria-label': 'Show the keys'},
            '?',
          ),
        ),
        keys,
      );
    document.getElementById('sections').append(
      el(
        'ol',
        null,
        SECTIONS.map(([id, title], at) =>
          el(
            'li',
            null,
            el(
              'a',
              {href: `#${id}`, 'data-section': id},
              el('kbd', {'aria-hidden': 'true'}, at + 1),
              el('span', null, title),
            ),
          ),
        ),
      ),
    );
    return keys;
  }

  function listen(cursor, keys) {
    document.addEventListener('click', (event) => {
      const button = event.target.closest('[data-go]');
      if (!button) return;
      cursor.set(Number(button.dataset.go));
      const near = button.closest('#timeline, #events');
      if (!near) document.getElementById('timeline').scrollIntoView();
    });
    document.addEventListener('keydown', (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const writing = event.target.closest('input:not([type=range]), textarea, select');
      if (writing) {
        if (event.key !== 'Escape') return undefined;
        writing.value = '';
        writing.dispatchEvent(new Event('input'));
        writing.blur();
        return event.preventDefault();
      }
      if (event.key === '?') return keys.open ? keys.close() : keys.showModal();
      if (keys.open) return undefined;
      const number = Number(event.key),
        {key} = event;
      if (key === '/') {
        document.getElementById('events').scrollIntoView();
        document.getElementById('search').focus({preventScroll: true});
      } else if (number >= 1 && number <= SECTIONS.length) {
        const target = document.getElementById(SECTIONS[number - 1][0]);
        target.scrollIntoView();
        (number === 2 ? document.getElementById('slider') || target : target).focus({preventScroll: true});
      } else if (key === '[' || key === ']') cursor.set(cursor.place + (key === ']' ? 1 : -1));
      else if (key === 't') theme();
      else return undefined;
      return event.preventDefault();
    });
    const links = new Map([...document.querySelectorAll('[data-section]')].map((link) => [link.dataset.section, link]));
    const seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          for (const link of links.values()) link.removeAttribute('aria-current');
          links.get(entry.target.id).setAttribute('aria-current', 'true');
        }
      },
      {rootMargin: '-20% 0px -75% 0px'},
    );
    document.querySelectorAll('main > section').forEach((one) => seen.observe(one));
  }

  async function check(bundle, run, cursor, results) {
    const began = performance.now(),
      short = document.getElementById('check-short');
    const done = await new Verify.Check(bundle, read('kinds'), (at, all) => Report.progress(parts, at, all)).run();
    Report.verdict(parts, done, (performance.now() - began) / 1000);
    short.textContent = {right: 'Checked', part: 'Checked in part', wrong: 'Not what was recorded'}[done.verdict];
    short.parentElement.dataset.verdict = done.verdict;
    const wrong = Report.problems(done);
    if (wrong) parts.box.after(wrong);
    results.append(Report.tallies(done), Report.limits(bundle));
    run.problems = new Map();
    for (const {seq, text} of done.problems) run.problems.set(seq, [...(run.problems.get(seq) || []), text]);
    cursor.set(cursor.place, 'check');
  }

  async function start() {
    let bundle;
    try {
      bundle = read('bundle');
    } catch (error) {
      main.append(parts.box);
      Report.broken(parts, error);
      return;
    }
    const run = new Run(bundle),
      cursor = new Cursor(run.size),
      results = el('div', {class: 'results'});
    const keys = header(bundle);
    const contents = [
      () => [parts.box, Overview.view(run), results],
      () => Timeline.section(run, cursor),
      () => Tree.section(run, cursor),
      () => Tables.toolLedger(run),
      () => Tables.approvals(run),
      () => Tables.costs(run),
      () => Tables.failures(run),
      () => Tables.kept(run),
      () => Events.section(run, cursor),
    ];
    main.append(...SECTIONS.map(([id, title], at) => section(id, title, at + 1, drawn(contents[at]))));
    listen(cursor, keys);
    await new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
    try {
      await check(bundle, run, cursor, results);
    } catch (error) {
      console.error(error);
      Report.broken(parts, error);
    }
  }

  start().finally(() => (document.documentElement.dataset.ready = 'true'));
})();
