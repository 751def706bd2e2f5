/* The run through time: a strip of all events, a slider, and what each event changed.
 *
 * Rules: one place in the run is the reader's (`Cursor`); everything that shows an event follows it, at most once a
 * frame, and only where it can be seen. The strip has a lane for each family of events, in the order of events or by
 * time; spans are effects from their intent to their outcome.
 */
'use strict';

/** Where the reader is in the run. */
class Cursor {
  constructor(size) {
    this.size = size;
    this.place = size;
    this.source = '';
    this.followers = [];
  }

  /** Have `act` called when the place moved and `element` can be seen; and once at first. */
  follow(element, act) {
    const one = {act, seen: true, due: true};
    new IntersectionObserver(
      (entries) => {
        one.seen = entries[entries.length - 1].isIntersecting;
        if (one.seen) this.later();
      },
      {rootMargin: '0px'},
    ).observe(element);
    this.followers.push(one);
    this.later();
  }

  set(place, source = '') {
    this.place = Math.max(Math.min(place, this.size), Math.min(1, this.size));
    this.source = source;
    for (const one of this.followers) one.due = true;
    this.later();
  }

  later() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      for (const one of this.followers) {
        if (!one.due || !one.seen) continue;
        one.due = false;
        one.act();
      }
    });
  }
}

const Timeline = (() => {
  const LANE = 16;
  /** With more events than this, a mark is fainter, so that where there are many is darker than where there are few. */
  const DENSE = 800;

  function section(run, cursor) {
    if (!run.size) return [el('p', {class: 'nothing'}, 'There are no events.')];
    const strip = drawn(run, cursor),
      opened = new Map(),
      byEvent = new Map();
    const slider = el('input', {
      type: 'range',
      id: 'slider',
      min: 1,
      max: run.size,
      step: 1,
      value: run.size,
      'aria-label': 'Event',
    });
    const label = el('output', {class: 'now', for: 'slider'});
    slider.addEventListener('input', () => cursor.set(Number(slider.value), 'slider'));
    const step = (text, title, to) => {
      const button = el('button', {type: 'button', title, 'aria-label': title}, text);
      button.addEventListener('click', () => cursor.set(to()));
      return button;
    };
    const next = (from, way) => {
      for (let place = from + way; place >= 1 && place <= run.size; place += way) if (run.trouble(place)) return place;
      return from;
    };
    const buttons = el(
      'div',
      {class: 'steps-of-slider'},
      step('|◀', 'First event', () => 1),
      step('◀', 'Event before', () => cursor.place - 1),
      step('▶', 'Next event', () => cursor.place + 1),
      step('▶|', 'Last event', () => run.size),
      step('‹ trouble', 'Trouble before', () => next(cursor.place, -1)),
      step('trouble ›', 'Next trouble', () => next(cursor.place, 1)),
      strip.choice,
    );
    const event = el('div', {class: 'panel', id: 'now-event'}),
      changed = el('div', {class: 'panel', id: 'now-changed'});
    const state = el('div', {class: 'panel', id: 'now-state'}),
      budget = el('div', {class: 'panel', id: 'now-budget'}),
      transcript = el('div', {class: 'panel', id: 'now-transcript'});
    cursor.follow(slider, () => {
      const {place} = cursor,
        now = run.at(place);
      slider.value = place;
      const said = [
        `Event ${Say.count(place)} of ${Say.count(run.size)}`,
        `+${Say.span(run.seconds(place))}`,
        Say.words(now.type),
      ].join(' · ');
      label.textContent = said;
      slider.setAttribute('aria-valuetext', said);
      strip.move(place);
    });
    cursor.follow(event, () => event.replaceChildren(Events.detail(run, cursor.place, byEvent)));
    cursor.follow(changed, () => {
      const before = run.standing(cursor.place - 1),
        found = Changes.between(before, run.standing(cursor.place));
      changed.replaceChildren(
        el('h3', null, 'What it changed', el('small', null, Say.many(found.length, 'difference'))),
        Changes.view(found, 'Nothing that is folded: the event is on record, and the run stands as before.'),
      );
    });
    cursor.follow(state, () => state.replaceChildren(...standing(run, cursor.place, opened)));
    cursor.follow(budget, () => budget.replaceChildren(...Moment.budget(run, cursor.place)));
    cursor.follow(transcript, () =>
      transcript.replaceChildren(...Moment.transcript(run, cursor.place).filter(Boolean)),
    );
    return [
      el('div', {class: 'player'}, label, buttons, strip.box, el('div', {class: 'rail'}, slider)),
      el('div', {class: 'split'}, event, el('div', {class: 'stack'}, changed, state)),
      el('div', {class: 'split moment'}, transcript, budget),
    ];
  }

  /** What the run is after an event. */
  function standing(run, place, opened) {
    const now = run.standing(place),
      {state, proposed, ledger, waits, approvals, children, cost = {}} = now;
    const chip = (name, value) =>
      value === undefined || value === null || value === ''
        ? null
        : el('span', {class: 'pair'}, el('small', null, name), value);
    const tableOf = (name, value) => {
      const size = value === undefined ? 0 : Array.isArray(value) ? value.length : Object.keys(value).length;
      return size
        ? el(
            'div',
            {class: 'data'},
            Values.tree(
              Object.assign(Object.create(null), {[`${name} (${size})`]: value}),
              {opened, levels: 0},
              `$${name}`,
            ),
          )
        : null;
    };
    const open = Array.isArray(proposed) ? proposed : [],
      whole = open.length && now.proposed_count === open.length;
    const draft = whole ? open.reduce(Exact.merge, state) : state;
    const said = !whole
      ? `as committed, version ${now.version || 0}`
      : `with ${Say.many(open.length, 'patch', 'patches')} proposed and not committed yet`;
    return [
      el('h3', null, 'The run after it'),
      el(
        'div',
        {class: 'pairs'},
        mark(now.status),
        chip('waits for', now.waiting && Values.line(now.waiting, 60)),
        chip('step', now.step_number),
        chip('epoch', now.epoch),
        chip('attempt', now.attempt),
        chip('worker', now.worker),
        chip('version', now.version),
        chip('in doubt', now.in_doubt || null),
        chip('cost', Say.dollars(cost.usd_nano || 0)),
        chip('model calls', cost.model_calls || null),
        chip('tool calls', cost.tool_calls || null),
      ),
      el('h4', null, 'State', el('small', null, said)),
      el('div', {class: 'data', id: 'state-tree'}, documentOf(draft, opened)),
      whole ? tableOf('state as committed', state) : null,
      tableOf('proposed', proposed),
      tableOf('tool ledger', ledger),
      tableOf('waits', waits),
      tableOf('approvals', approvals),
      tableOf('children', children),
    ].filter(Boolean);
  }

  function documentOf(state, opened) {
    const empty = state === undefined || (Values.isTree(state) && !Object.keys(state).length);
    return empty ? el('span', {class: 'gist'}, 'empty') : Values.tree(state, {opened, levels: 3}, '$state');
  }

  /** The strip: one path for each lane, whatever the number of events. */
  function drawn(run, cursor) {
    const lanes = FAMILIES.filter(([id]) => run.family.includes(id)),
      high = lanes.length * LANE;
    const box = el('div', {class: 'strip'}),
      names = el(
        'div',
        {class: 'lanes', 'aria-hidden': 'true'},
        lanes.map(([id, name]) => el('span', {class: id}, name)),
      );
    const picture = svg('svg', {
      class: run.size > DENSE ? 'events dense' : 'events',
      viewBox: `0 0 1000 ${high}`,
      preserveAspectRatio: 'none',
      role: 'img',
      'aria-label': 'All events in lanes by family; use the slider to go through them',
    });
    const line = el('i', {class: 'needle', 'aria-hidden': 'true'});
    const field = el('div', {class: 'field-of-events'}, picture, line);
    box.append(names, field);
    let byTime = false;
    const span = Math.max(run.end - run.start, 1e-9);
    const x = (place) =>
      byTime ? (1000 * run.seconds(place)) / span : run.size > 1 ? (1000 * (place - 1)) / (run.size - 1) : 0;
    function draw() {
      const ticks = new Map(lanes.map(([id]) => [id, []])),
        spans = new Map(lanes.map(([id]) => [id, []])),
        trouble = [];
      const lane = new Map(lanes.map(([id], at) => [id, at * LANE]));
      for (let place = 1; place <= run.size; place++) {
        const family = run.family[place - 1],
          top = lane.get(family) + 3;
        (run.trouble(place) ? trouble : ticks.get(family)).push(`M${x(place).toFixed(2)} ${top}v${LANE - 6}`);
      }
      for (const one of run.effects.values()) {
        const family = run.family[(one.began || one.first) - 1];
        if (one.last > one.first && spans.has(family))
          spans
            .get(family)
            .push(`M${x(one.began || one.first).toFixed(2)} ${lane.get(family) + LANE / 2}H${x(one.last).toFixed(2)}`);
      }
      picture.replaceChildren(
        ...lanes.map(([id]) => svg('path', {class: `spans ${id}`, d: spans.get(id).join('')})),
        ...lanes.map(([id]) => svg('path', {class: `ticks ${id}`, d: ticks.get(id).join('')})),
        svg('path', {class: 'ticks trouble', d: trouble.join('')}),
      );
    }
    const move = (place) => (line.style.transform = `translateX(${x(place) / 10}%)`);
    const choice = el(
      'button',
      {type: 'button', class: 'chip', 'aria-pressed': 'false', title: 'Space the strip by time'},
      'By time',
    );
    choice.addEventListener('click', () => {
      byTime = !byTime;
      choice.setAttribute('aria-pressed', String(byTime));
      draw();
      move(cursor.place);
    });
    const point = (event) => {
      const rect = field.getBoundingClientRect(),
        at = (1000 * (event.clientX - rect.left)) / Math.max(1, rect.width);
      let low = 1,
        high_ = run.size;
      while (low < high_) {
        const middle = (low + high_) >> 1;
        if (x(middle) < at) low = middle + 1;
        else high_ = middle;
      }
      cursor.set(low > 1 && at - x(low - 1) < x(low) - at ? low - 1 : low, 'strip');
    };
    field.addEventListener('pointerdown', (event) => {
      field.setPointerCapture(event.pointerId);
      point(event);
    });
    field.addEventListener('pointermove', (event) => event.buttons && point(event));
    draw();
    return {box, move, choice};
  }

  return {section};
})();
