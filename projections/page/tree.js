/* Steps, their effects, and the runs that they started, as a tree.
 *
 * Rules: an effect stands where its path says: in its step, under the tasks that asked for it (`fetch.2/1` is the first
 * effect of the second task `fetch`). Rows are drawn while they are in view; the arrow keys open, close and move.
 */
'use strict';
const Tree = (() => {
  const KINDS = {
    tool: 'tool',
    model: 'model',
    sleep: 'sleep',
    signal: 'signal',
    approval: 'approval',
    child: 'child run',
    value: 'value',
    state: 'state',
    cost: 'cost',
    artifact: 'artifact',
    effect: 'effect',
  };

  /** Nodes below steps: groups for tasks, leaves for effects. */
  function grown(run) {
    const roots = run.steps.map((step) =>
      node('step', step.agent, {id: `s${step.number}`, step, first: step.first, status: step.status}),
    );
    const bySteps = new Map(run.steps.map((step, at) => [step.step, roots[at]]));
    const loose = node('step', 'outside of steps', {id: 's0', first: 0, status: ''});
    for (const effect of run.effects.values()) {
      let place = bySteps.get(effect.step) || loose;
      const parts = effect.path.split('/').filter((part) => !/^#\d+$/.test(part));
      for (const part of parts.slice(0, -1)) {
        const id = `${place.id}/${part}`;
        let group = place.below.find((one) => one.id === id);
        if (!group) {
          group = node('task', part, {id, first: effect.first, status: ''});
          place.below.push(group);
        }
        place = group;
      }
      const leaf = node('effect', effect.name, {
        id: `e${effect.path}`,
        effect,
        first: effect.first,
        status: effect.status,
      });
      if (effect.child)
        leaf.below.push(
          node('run', effect.child, {
            id: `r${effect.child}`,
            first: effect.last,
            status: effect.status === 'open' ? 'running' : effect.status,
          }),
        );
      place.below.push(leaf);
    }
    if (loose.below.length) roots.push(loose);
    return roots;
  }

  const node = (kind, name, more) => ({kind, name, below: [], ...more});

  /** What stands in a row. */
  function row(run, {one, level, open}) {
    const {kind, effect, step} = one;
    const twisty = el(
      'button',
      {type: 'button', class: 'twisty', tabindex: '-1', 'aria-hidden': 'true', 'data-twist': one.below.length > 0},
      one.below.length ? (open ? '▾' : '▸') : '',
    );
    const took =
      effect && effect.last > effect.first
        ? run.seconds(effect.last) - run.seconds(effect.began || effect.first)
        : null;
    const whole = step ? run.seconds(step.last) - run.seconds(step.first) : took;
    const from = effect ? run.seconds(effect.began || effect.first) : step ? run.seconds(step.first) : null;
    const bar =
      from === null
        ? null
        : el('i', {class: `span ${effect ? run.family[(effect.began || effect.first) - 1] : 'step'}`});
    if (bar) {
      const all = Math.max(run.end - run.start, 1e-9);
      bar.style.left = `${(100 * from) / all}%`;
      bar.style.width = `${(100 * (whole || 0)) / all}%`;
    }
    const element = el(
      'div',
      {class: `node ${kind}`, 'aria-level': level + 1, 'aria-expanded': one.below.length ? String(open) : null},
      el(
        'span',
        {class: 'label'},
        twisty,
        el(
          'span',
          {class: 'what'},
          step
            ? `step ${step.number}`
            : kind === 'task'
              ? 'task'
              : kind === 'run'
                ? 'run'
                : effect
                  ? KINDS[effect.kind] || effect.kind
                  : 'step',
        ),
        el('span', {class: 'name'}, Values.visible(Say.short(String(one.name), 80))),
      ),
      el(
        'span',
        {class: 'rest'},
        one.status === 'completed'
          ? el('span', {class: 'well', title: 'completed'}, '✓')
          : mark(one.status === 'open' ? 'running' : one.status),
        effect && effect.attempts > 1 && el('small', null, `${effect.attempts} attempts`),
        effect && effect.detail && effect.status !== 'completed' && el('small', {class: 'error'}, effect.detail),
        (kind === 'task' || step) && el('small', null, Say.many(one.below.length, 'effect')),
      ),
      el('span', {class: 'track', 'aria-hidden': 'true'}, bar),
      el('span', {class: 'took'}, whole === null ? '' : Say.span(whole)),
      el('span', {class: 'cost'}, effect && effect.usd ? Say.dollars(effect.usd) : ''),
      el('code', {class: 'path'}, effect ? effect.path : ''),
    );
    element.style.setProperty('--level', level);
    return element;
  }

  function section(run, cursor) {
    const roots = grown(run),
      closed = new Set();
    if (!roots.length) return [el('p', {class: 'nothing'}, 'No step was created.')];
    let rows = [];
    const flatten = () => {
      rows = [];
      const walk = (nodes, level) =>
        nodes.forEach((one) => {
          const open = !closed.has(one.id);
          rows.push({one, level, open});
          if (open) walk(one.below, level + 1);
        });
      walk(roots, 0);
      list.fill(rows.length);
    };
    const twist = (at, to) => {
      const {one, open} = rows[at] || {};
      if (!one || !one.below.length || open === to) return false;
      if (open) closed.add(one.id);
      else closed.delete(one.id);
      flatten();
      list.mark(at, false);
      return true;
    };
    const key = (event, at) => {
      if (event.key === 'ArrowRight') return twist(at, true) || true;
      if (event.key === 'ArrowLeft') {
        if (twist(at, false)) return true;
        for (let up = at - 1; up >= 0; up--) if (rows[up].level < rows[at].level) return (list.choose(up), true);
        return true;
      }
      return event.key === 'Enter' || event.key === ' ' ? (list.choose(at), true) : false;
    };
    const list = new Lists.Window({
      label: 'Steps and effects',
      role: 'tree',
      draw: (at) => row(run, rows[at]),
      key,
      chosen: (at) => rows[at].one.first && cursor.set(rows[at].one.first, 'tree'),
    });
    list.box.id = 'effect-tree';
    list.box.addEventListener('click', (event) => {
      const button = event.target.closest('[data-twist]'),
        at = button && Number(button.closest('[data-row]').dataset.row);
      if (button) twist(at, !rows[at].open);
    });
    flatten();
    cursor.follow(list.box, () => {
      if (cursor.source === 'tree') return;
      const path = run.size ? run.at(cursor.place).facts.path : undefined;
      list.mark(path === undefined ? -1 : rows.findIndex(({one}) => one.effect && one.effect.path === path));
    });
    const all = el(
      'div',
      {class: 'tools'},
      el('button', {type: 'button', onclick: () => (closed.clear(), flatten())}, 'Open all'),
      el(
        'button',
        {type: 'button', onclick: () => (roots.forEach((one) => closed.add(one.id)), flatten())},
        'Close all',
      ),
      el('span', {class: 'shown'}, `${Say.many(run.steps.length, 'step')}, ${Say.many(run.effects.size, 'effect')}`),
    );
    return [all, list.box];
  }

  return {section};
})();
