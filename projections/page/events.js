/* The raw events: a list with search and filters, and one event in full.
 *
 * Rules: a search looks at everything that an event says, names and contents, in small letters; all of its words must
 * be there. Texts to look in are made once, in slices, and kept while they are small together; so a key press is
 * answered at once, and a run of many megabytes is searched while one goes on. Rows out of view do not exist.
 */
'use strict';
const Events = (() => {
  const KEPT = 48e6,
    SLICE = 12;

  /** What can be found of an event. */
  function haystack(run, place) {
    const event = run.at(place),
      parts = [
        event.type,
        Say.words(event.type),
        event.actor,
        event.step_id || '',
        `#${place}`,
        run.names[place - 1],
        event.hash,
      ];
    const collect = (value) => {
      if (typeof value === 'string') parts.push(value);
      else if (Array.isArray(value)) value.forEach(collect);
      else if (Exact.isMap(value)) for (const name of Object.keys(value)) (parts.push(name), collect(value[name]));
      else if (value !== null) parts.push(String(value));
    };
    collect(event.facts);
    collect(event.content);
    return parts.join('\n').toLowerCase();
  }

  /** Finds events, a slice at a time; a new search ends the one before. */
  class Search {
    constructor(run, found) {
      this.run = run;
      this.found = found;
      this.texts = new Array(run.size);
      this.room = KEPT;
      this.turn = 0;
    }

    text(place) {
      if (this.texts[place - 1] !== undefined) return this.texts[place - 1];
      const text = haystack(this.run, place);
      if (text.length <= this.room) {
        this.room -= text.length;
        this.texts[place - 1] = text;
      }
      return text;
    }

    async look(words, keep) {
      const turn = ++this.turn,
        places = [];
      let until = performance.now() + SLICE,
        told = false;
      for (let place = 1; place <= this.run.size; place++) {
        if (keep(place) && (!words.length || words.every((word) => this.text(place).includes(word))))
          places.push(place);
        if (place % 64 || performance.now() < until) continue;
        if (!told) this.found(places, false);
        told = true;
        await new Promise((on) => setTimeout(on));
        if (turn !== this.turn) return;
        until = performance.now() + SLICE;
      }
      this.found(places, true);
    }

    /** Make texts while nobody asks. */
    async prepare() {
      for (let place = 1; place <= this.run.size && this.room > 0; place++) {
        this.text(place);
        if (place % 32 === 0) await new Promise((on) => setTimeout(on));
      }
    }
  }

  function row(run, place) {
    const event = run.at(place);
    return el(
      'div',
      {class: `event ${run.trouble(place) ? 'trouble' : ''}`},
      el('span', {class: 'seq'}, place),
      el('span', {class: 'when'}, `+${Say.span(run.seconds(place))}`),
      el('span', {class: `dot ${run.family[place - 1]}`, 'aria-hidden': 'true'}),
      el('span', {class: 'type'}, Say.words(event.type)),
      el('span', {class: 'gist'}, run.gist(place)),
    );
  }

  /** One event in full. `opened` remembers what a reader opened. */
  function detail(run, place, opened) {
    if (!place) return el('p', {class: 'nothing'}, 'No event is chosen.');
    const event = run.at(place),
      problems = (run.problems && run.problems.get(place)) || [];
    const fact = (name, value) =>
      value === null || value === undefined || value === ''
        ? null
        : el('div', {class: 'fact'}, el('dt', null, name), el('dd', null, value));
    const cause = event.causation === null ? 0 : run.place(event.causation);
    const names = Object.keys(event.content).filter((name) => event.content[name] !== null);
    const resolve = (name) => (value) =>
      Shown.BEFORE in value && Exact.isMap(value[Shown.BEFORE]) ? run.said(value[Shown.BEFORE], name) : null;
    return el(
      'article',
      {class: 'detail'},
      el(
        'h3',
        null,
        el('span', {class: `dot ${run.family[place - 1]}`, 'aria-hidden': 'true'}),
        Say.words(event.type),
        el('small', null, `event ${place} of ${run.size}`),
      ),
      problems.length > 0 &&
        el(
          'ul',
          {class: 'wrongs'},
          problems.map((text) => el('li', null, Values.visible(text))),
        ),
      run.gist(place) && el('p', {class: 'lead'}, run.gist(place)),
      el(
        'dl',
        {class: 'facts small'},
        fact('Time', `${Say.time(event.timestamp, true)} (+${Say.span(run.seconds(place))})`),
        fact('Actor', event.actor),
        fact('Step', event.step_id && el('code', null, event.step_id)),
        fact('Epoch', event.epoch),
        fact(
          'Answers',
          event.causation === null ? null : cause ? go(cause, `event ${cause}`) : `seq ${event.causation}`,
        ),
        fact('Seq in the log', el('code', null, String(event.log_seq))),
        fact('Hash', el('code', {class: 'digest'}, event.hash)),
      ),
      el('h4', null, 'Facts', el('small', null, 'sealed in clear')),
      el(
        'div',
        {class: 'data'},
        Object.keys(event.facts).length ? Values.tree(event.facts, {opened}, '$facts') : 'none',
      ),
      names.length > 0 && [
        el('h4', null, 'Content', el('small', null, 'encrypted in the log')),
        names.map((name) =>
          el(
            'div',
            {class: 'data field'},
            el('div', {class: 'field-name'}, Say.words(name)),
            Values.tree(event.content[name], {opened, resolve: resolve(name)}, `$content.${name}`),
          ),
        ),
      ],
    );
  }

  function section(run, cursor) {
    const chosen = new Set(),
      opened = new Map();
    let places = [],
      trouble = false;
    const list = new Lists.Window({
      label: 'Events',
      draw: (at) => row(run, places[at]),
      chosen: (at) => cursor.set(places[at], 'list'),
    });
    list.box.id = 'event-list';
    const count = el('span', {class: 'shown', role: 'status'}),
      side = el('div', {class: 'side-panel'});
    const search = new Search(run, (found, whole) => {
      places = found;
      count.textContent = `${Say.count(found.length)} of ${Say.many(run.size, 'event')}${whole ? '' : ' so far'}`;
      list.fill(found.length);
      list.mark(found.indexOf(cursor.place), false);
    });
    const input = el('input', {
      type: 'search',
      id: 'search',
      placeholder: 'Search in all that events say',
      'aria-label': 'Search events',
      autocomplete: 'off',
      spellcheck: 'false',
    });
    const look = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      list.box.scrollTop = 0;
      search.look(
        words,
        (place) => (!chosen.size || chosen.has(run.family[place - 1])) && (!trouble || run.trouble(place)),
      );
    };
    input.addEventListener('input', look);
    const toggle = (name, act, kind) => {
      const button = el(
        'button',
        {type: 'button', class: 'chip', 'aria-pressed': 'false', 'data-filter': kind},
        kind !== 'trouble' && el('span', {class: `dot ${kind}`, 'aria-hidden': 'true'}),
        name,
      );
      button.addEventListener('click', () => {
        const on = button.getAttribute('aria-pressed') !== 'true';
        button.setAttribute('aria-pressed', String(on));
        act(on);
        look();
      });
      return button;
    };
    const there = new Map();
    for (const family of run.family) there.set(family, (there.get(family) || 0) + 1);
    const chips = FAMILIES.filter(([id]) => there.has(id)).map(([id, name]) =>
      toggle(
        [name, el('small', null, Say.count(there.get(id)))],
        (on) => (on ? chosen.add(id) : chosen.delete(id)),
        id,
      ),
    );
    chips.push(toggle('Trouble only', (on) => (trouble = on), 'trouble'));
    const show = () => {
      list.mark(places.indexOf(cursor.place), cursor.source !== 'list');
      side.replaceChildren(detail(run, cursor.place, opened));
    };
    cursor.follow(side, show);
    look();
    setTimeout(() => search.prepare(), 600);
    const paper = el('div', {class: 'paper'});
    Lists.printed((on) => paper.replaceChildren(...(on ? run.events.map((_, at) => row(run, at + 1)) : [])));
    return [
      el(
        'div',
        {class: 'tools'},
        input,
        el('div', {class: 'chips', role: 'group', 'aria-label': 'Filters'}, chips),
        count,
      ),
      el('div', {class: 'split events'}, list.box, side),
      paper,
    ];
  }

  return {section, detail};
})();
