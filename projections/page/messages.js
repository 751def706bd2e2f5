/* Messages for models in the two usual shapes, and what makes a list of them valid: a result for every tool call.
 *
 * Rules: a second time on purpose what `projections/messages.py` does, from documents of any shape; no odd one throws.
 * A call's result directly follows it, once, in the order of the calls: for OpenAI as messages of the role `tool`, for
 * Anthropic as the first blocks of the user's next message. What has no place is not shown but listed. What is valid
 * already stays as it is. Words are Python's: JSON with a space behind commas and colons. This file draws nothing.
 */
'use strict';
const Messages = (() => {
  const INVENTED = '[agentledger] No result was recorded for this call';
  const UNUSABLE = '[agentledger] A tool call without an id of its own was left out.';
  const ENVELOPE = ['id', 'object', 'type', 'created', 'model', 'usage', 'stop_reason', 'stop_sequence'].concat([
    'stop_details',
    'container',
  ]);
  const map = (...parts) => Object.assign(Object.create(null), ...parts);
  const none = (value) => value === undefined || value === null;
  const get = (value, name, other) => (Exact.isMap(value) && name in value ? value[name] : other);
  const unsaid = (value) => (Shown.UNSAID.includes(value) ? value.slice(1, -1) : null);
  const items = (value, kind) =>
    Array.isArray(value) ? value.filter((one) => Exact.isMap(one) && (!kind || one.type === kind)) : [];
  const is = (block, kind) => Exact.isMap(block) && block.type === kind;
  const idOf = (document, name) => (typeof get(document, name) === 'string' ? document[name] : '');

  /** JSON as Python spells it. */
  function spelled(value) {
    if (Array.isArray(value)) return `[${value.map(spelled).join(', ')}]`;
    if (Exact.isMap(value))
      return `{${Object.keys(value)
        .map((name) => `${JSON.stringify(name)}: ${spelled(value[name])}`)
        .join(', ')}}`;
    return typeof value === 'string' ? JSON.stringify(value) : String(value);
  }

  /** A value as a model reads it. */
  function textOf(value) {
    if (none(value)) return '';
    if (typeof value === 'string') return value;
    const texts = items(value, 'text').flatMap((one) => (typeof one.text === 'string' ? [one.text] : []));
    return texts.length && texts.length === value.length ? texts.join('\n') : spelled(value);
  }

  /** Arguments as one text, the same for equal ones; text is read as JSON where it can be. */
  function comparable(given) {
    const key = (value) => {
      if (Array.isArray(value)) return `[${value.map(key).join()}]`;
      if (Exact.isMap(value))
        return `{${Object.keys(value)
          .sort()
          .map((name) => `${JSON.stringify(name)}:${key(value[name])}`)
          .join()}}`;
      if (typeof value === 'string') return JSON.stringify(value);
      const fraction = value instanceof Decimal || (typeof value === 'number' && !Number.isInteger(value));
      return fraction ? `f${Exact.number(value)}` : String(value);
    };
    try {
      const value = typeof given === 'string' ? Exact.parse(given || '{}') : given;
      return key(none(value) ? map() : value);
    } catch {
      return String(given);
    }
  }

  /** Messages as maps: what is none is a user's text. */
  const documentsOf = (messages) =>
    (Array.isArray(messages) ? messages : [messages]).map((one) =>
      Exact.isMap(one) ? one : map({role: 'user', content: textOf(one)}),
    );

  /** The assistant's message of a response, in whatever shape it came: unknown ones as text. */
  function responseMessage(response) {
    const said = (content) => map({role: 'assistant', content});
    if (unsaid(response) !== null) return said(`[agentledger] This response cannot be read: ${unsaid(response)}.`);
    let found = response;
    if (Exact.isMap(response)) {
      const {choices, content} = response;
      if (Array.isArray(choices) && choices.length && Exact.isMap(choices[0])) found = choices[0].message;
      else if (typeof content === 'string' || Array.isArray(content) || Array.isArray(response.tool_calls)) {
        found = map(response);
        for (const name of ENVELOPE) delete found[name];
      }
    }
    const speaks = Exact.isMap(found) && ('content' in found || 'tool_calls' in found),
      fits = speaks && get(found, 'role', 'assistant') === 'assistant';
    if (!fits || !(typeof found.content === 'string' || Array.isArray(found.content) || none(found.content)))
      return said(textOf(response));
    return map({role: 'assistant'}, found);
  }

  /** The calls of an assistant's message, each id once: OpenAI's if it has any, else Anthropic's. */
  function callsOf(message) {
    if (message.role !== 'assistant') return [];
    const found = new Map();
    const add = (id, name, given, shape) => {
      const call = {id, name: textOf(name), arguments: comparable(given), shape};
      call.key = JSON.stringify([id, call.name, call.arguments]);
      if (!found.has(id)) found.set(id, call);
    };
    for (const entry of items(message.tool_calls)) {
      const part = get(entry, 'function', entry.custom);
      if (idOf(entry, 'id'))
        add(entry.id, get(part, 'name', ''), get(part, 'arguments', get(part, 'input')), 'openai');
    }
    if (!found.size)
      for (const block of items(message.content, 'tool_use'))
        if (idOf(block, 'id')) add(block.id, get(block, 'name', ''), block.input, 'anthropic');
    return [...found.values()];
  }

  function resultsOf(at, message) {
    const one = (document, nth, name, shape) => ({at, nth, id: idOf(document, name), document, shape});
    if (message.role === 'tool') return [one(message, 0, 'tool_call_id', 'openai')];
    if (message.role !== 'user') return [];
    return items(message.content, 'tool_result').map((block, nth) => one(block, nth, 'tool_use_id', 'anthropic'));
  }

  /** Every call with the first result of its id after it, and before another call of that id. */
  function paired(messages) {
    const said = new Map(),
      asked = [],
      last = new Map();
    messages.forEach((message, at) => {
      for (const result of resultsOf(at, message)) {
        if (!said.has(result.id)) said.set(result.id, []);
        said.get(result.id).push(result);
      }
      for (const call of callsOf(message)) {
        const pair = {at, call, end: messages.length};
        if (last.has(call.id)) last.get(call.id).end = at;
        last.set(call.id, pair);
        asked.push(pair);
      }
    });
    for (const pair of asked)
      pair.result = (said.get(pair.call.id) || []).find(({at}) => pair.at < at && at < pair.end) || null;
    return asked;
  }

  /** Valid messages of `messages` and their `paired` calls; `answers[place]` is that of a pair without a result. */
  function compose(messages, pairs, answers) {
    const made = {messages: [], invented: [], restored: [], dropped: []},
      following = new Map();
    pairs.forEach(({at, call, result}, place) => {
      if (!following.has(at)) following.set(at, []);
      if (!result) made[answers[place].invented ? 'invented' : 'restored'].push(call.id);
      following.get(at).push(result ? inShape(call, result) : answer(call, answers[place]));
    });
    const used = new Set(pairs.filter(({result}) => result).map(({result}) => `${result.at} ${result.nth}`)),
      shapes = new Map(pairs.map(({at, call}) => [at, call.shape]));
    let blocks = [];
    messages.forEach((message, at) => {
      for (const one of resultsOf(at, message)) if (!used.has(`${one.at} ${one.nth}`)) made.dropped.push(one.document);
      if (message.role === 'tool') return;
      const lead = blocks.length ? led(blocks, message) : null;
      if (blocks.length) made.messages.push(lead || map({role: 'user', content: blocks}));
      blocks = [];
      const rest = lead ? null : withoutResults(message);
      if (rest) made.messages.push(usable(rest, made.dropped));
      if (shapes.get(at) === 'openai') made.messages.push(...following.get(at));
      else if (following.has(at)) blocks = following.get(at);
    });
    if (blocks.length) made.messages.push(map({role: 'user', content: blocks}));
    return made;
  }

  /** A user's message that begins with results; null if it is none that can. */
  function led(blocks, message) {
    const {role, content} = message;
    if (role !== 'user' || !(typeof content === 'string' || Array.isArray(content))) return null;
    const rest =
      typeof content !== 'string'
        ? content.filter((block) => !is(block, 'tool_result'))
        : content
          ? [map({type: 'text', text: content})]
          : [];
    return map(message, {content: [...blocks, ...rest]});
  }

  function withoutResults(message) {
    const {role, content} = message;
    if (role !== 'user' || !items(content, 'tool_result').length) return message;
    const left = content.filter((block) => !is(block, 'tool_result'));
    return left.length ? map(message, {content: left}) : null;
  }

  /** An assistant's message without the calls that cannot be answered, which go to `dropped`. */
  function usable(message, dropped) {
    const {tool_calls: entries, content} = message;
    if (message.role !== 'assistant' || !('tool_calls' in message || items(content, 'tool_use').length)) return message;
    const calls = callsOf(message),
      row = map(message),
      some = (value) => !none(value) && value !== false && value !== 0 && value !== '' && !isEmpty(value);
    if ('tool_calls' in row) {
      const listed = Array.isArray(entries) ? entries : none(entries) ? [] : [entries];
      row.tool_calls = firstOf(listed, calls, 'openai', dropped);
      if (!row.tool_calls.length) delete row.tool_calls;
    }
    if (Array.isArray(content)) {
      row.content = firstOf(content, calls, 'anthropic', dropped);
      if (!row.content.length) row.content = null;
    }
    if ((some(entries) || some(content)) && !some(row.content) && !('tool_calls' in row)) row.content = UNUSABLE;
    return row;
  }

  const isEmpty = (value) => typeof value === 'object' && Values.isTree(value) && !Object.keys(value).length;

  /** The first item of each call of a shape, and whatever is no call. */
  function firstOf(list, calls, shape, dropped) {
    const unseen = new Set(calls.filter((call) => call.shape === shape).map((call) => call.id));
    return list.filter((item) => {
      if (shape !== 'openai' && !is(item, 'tool_use')) return true;
      if (unseen.delete(idOf(item, 'id'))) return true;
      dropped.push(item);
      return false;
    });
  }

  /** A result in the shape of its call: as it was said, wherever that is valid. */
  function inShape(call, {document, shape}) {
    const {content} = document,
      text = textOf(content);
    if (call.shape !== shape) return answer(call, {text, invented: document.is_error === true});
    const valid = shape === 'anthropic' || typeof content === 'string' || Array.isArray(content);
    return valid ? document : map(document, {content: text});
  }

  function answer(call, {text, invented}) {
    if (call.shape === 'openai') return map({role: 'tool', tool_call_id: call.id, content: text});
    return map({type: 'tool_result', tool_use_id: call.id, content: text}, invented ? {is_error: true} : null);
  }

  /** Whether `sent` is the model's answer, said again in the agent's own shape. */
  function saysTheSame(said, sent) {
    if (Exact.same(said, sent)) return true;
    const keys = (message) => callsOf(message).map((call) => call.key);
    return sent.role === 'assistant' && Exact.same(keys(said), keys(sent)) && Exact.same(words(said), words(sent));
  }

  function words({content}) {
    if (!Array.isArray(content)) return none(content) || content === '' || isEmpty(content) ? [] : [content];
    const text = (block) => is(block, 'text') && 'text' in block && Object.keys(block).length === 2;
    return content.filter((block) => !is(block, 'tool_use')).map((block) => (text(block) ? block.text : block));
  }

  const lists = {get, items, map, none, unsaid};
  return {INVENTED, documentsOf, responseMessage, callsOf, paired, compose, saysTheSame, textOf, comparable, ...lists};
})();
