/* What the check found, in words: the banner, the tallies, the problems, and what no page can check of itself.
 *
 * Rules: green only if all was looked at and all was right; amber names what could not be looked at and why; red names
 * every event that is not what was recorded. The page cannot vouch for itself, and says so beside every result. This
 * file checks nothing.
 */
'use strict';
const Report = (() => {
  const MOST = 200;
  const VERDICTS = {
    right: ['Checked', 'These events are what was recorded'],
    part: ['Checked in part', 'What could be checked here is what was recorded'],
    wrong: ['Not what was recorded', 'This page does not show what was recorded'],
  };

  function banner() {
    const title = el('strong'),
      text = el('span'),
      bar = el('div', {class: 'progress'}, el('i'));
    const box = el(
      'div',
      {id: 'check', class: 'banner checking', role: 'status', 'aria-live': 'polite'},
      el('div', null, title, text),
      bar,
    );
    box.dataset.verdict = 'checking';
    title.textContent = 'Checking';
    text.textContent = 'Every hash is computed again, here, from the bytes in this page.';
    return {box, title, text, bar: bar.firstChild};
  }

  /** How far the check is: only a width moves, so that nothing is read aloud again and again. */
  const progress = (parts, done, all) => (parts.bar.style.width = `${all ? (100 * done) / all : 100}%`);

  function verdict(parts, check, seconds) {
    const [name, sentence] = VERDICTS[check.verdict],
      events = new Set(check.problems.map((one) => one.seq).filter((seq) => seq !== null));
    parts.box.className = `banner ${check.verdict}`;
    parts.box.dataset.verdict = check.verdict;
    parts.title.textContent = name;
    const inside = events.size ? ` in ${Say.many(events.size, 'event')}` : '';
    const what =
      check.verdict === 'wrong'
        ? `: ${Say.many(check.problems.length, 'problem')}${inside}.`
        : `: ${Say.many(check.tallies.get('hash').right, 'event')}, in ${Say.span(seconds)}, by this browser.`;
    parts.text.textContent = sentence + what;
  }

  /** A check that could not be made at all. */
  function broken(parts, error) {
    parts.box.className = 'banner wrong';
    parts.box.dataset.verdict = 'wrong';
    parts.title.textContent = 'Not checked';
    parts.text.textContent = `The data in this page cannot be read: ${error.message}`;
  }

  function tallies(check) {
    const rows = [...check.tallies.values()].map((one) => {
      const open = [...one.open.values()].reduce((sum, count) => sum + count, 0);
      const state = one.wrong ? 'wrong' : open ? 'part' : one.right ? 'right' : 'none';
      return el(
        'tr',
        {class: state, 'data-check': one.id},
        el(
          'th',
          {scope: 'row'},
          el('span', {class: 'light', 'aria-hidden': 'true'}),
          one.name,
          el('small', null, one.what),
          [...one.open].map(([why, count]) =>
            el('small', {class: 'why'}, `Could not check ${Say.count(count)}: ${why}`),
          ),
        ),
        el('td', {'data-label': 'right'}, Say.count(one.right)),
        el('td', {'data-label': 'wrong'}, one.wrong ? el('b', null, Say.count(one.wrong)) : '0'),
        el('td', {'data-label': 'could not check'}, Say.count(open)),
      );
    });
    return el(
      'table',
      {class: 'tallies'},
      el('caption', null, 'What was checked'),
      el(
        'thead',
        null,
        el(
          'tr',
          null,
          ['Checked here', 'Right', 'Wrong', 'Could not check'].map((title) => el('th', {scope: 'col'}, title)),
        ),
      ),
      el('tbody', null, rows),
    );
  }

  function problems(check) {
    if (!check.problems.length) return null;
    const rows = check.problems
      .slice(0, MOST)
      .map(({check: id, seq, text}) =>
        el(
          'li',
          null,
          el('span', {class: 'kind'}, check.tallies.get(id).name),
          ' ',
          Number.isSafeInteger(seq) ? [go(seq, `Event ${seq}`), ' '] : null,
          Values.visible(text),
        ),
      );
    const more = check.problems.length - MOST;
    return el(
      'div',
      {class: 'problems', id: 'problems'},
      el('h3', null, 'What is wrong'),
      el('ol', null, rows),
      more > 0 && el('p', {class: 'nothing'}, `and ${Say.count(more)} more.`),
    );
  }

  /** What holds whatever the check says. */
  function limits(bundle) {
    return el(
      'details',
      {class: 'limits'},
      el('summary', null, 'What a page cannot check by itself'),
      el(
        'ul',
        null,
        el(
          'li',
          null,
          'That it was not made anew as a whole, this check included. The hashes need no secret. ',
          'Hold the head above against the ledger, or against a head that you kept: ',
          el('code', null, `agentledger verify --against ${bundle.head.seq}:${Say.short(bundle.head.hash, 8)}`),
          '.',
        ),
        el(
          'li',
          null,
          'That the ledger still holds these events, and what other runs did: only one run’s events are here.',
        ),
        el('li', null, 'That times are true, and that what an event says happened outside did happen.'),
        el('li', null, Follow.notFollowed),
      ),
    );
  }

  return {banner, progress, verdict, broken, tallies, problems, limits};
})();
