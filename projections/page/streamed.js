/* An answer that came in chunks, put together as the message that it is.
 *
 * Rules: a second time on purpose what `projections/chunks.py` does; no odd chunk throws. Anthropic's events become a
 * message of blocks, OpenAI's a chat message; chunks of another shape become the text that they hold, or stay.
 */
'use strict';
const Streamed = (() => {
  const {get, items, map, none} = Messages;
  const part = (value, name) => (Exact.isMap(get(value, name)) ? value[name] : map());
  const proposal = (id, name, given) => ({id: none(id) ? null : id, name: none(name) ? null : name, arguments: given});

  /** The message of a streamed answer; the chunks themselves if they have none. */
  function message(chunks) {
    if (!Array.isArray(chunks) || !chunks.length) return chunks;
    if (chunks.length === 1 && !Object.keys(delta(chunks[0])).length) return chunks[0];
    const texts = chunks.map(textOf).filter((text) => text !== null),
      calls = proposedInChunks(chunks);
    if (!texts.length && !calls.length) return chunks;
    const text = texts.join('');
    if (chunks.some((chunk) => Exact.isMap(chunk) && 'content_block' in chunk)) {
      const uses = calls.map(({id, name, arguments: given}) => map({type: 'tool_use', id, name, input: parsed(given)}));
      return map({role: 'assistant', content: [...(text ? [map({type: 'text', text})] : []), ...uses]});
    }
    const tool_calls = calls.map(({id, name, arguments: given}) =>
      map({id, type: 'function', function: map({name, arguments: given})}),
    );
    return map({role: 'assistant', content: text}, calls.length ? {tool_calls} : null);
  }

  /** The text that a chunk goes on with. */
  function textOf(chunk) {
    if (typeof chunk === 'string') return chunk;
    const found = delta(chunk),
      text = Object.keys(found).length ? get(found, 'content', found.text) : get(chunk, 'text');
    return typeof text === 'string' ? text : null;
  }

  /** The part of a chunk that is new. */
  function delta(chunk) {
    if (!Exact.isMap(chunk)) return map();
    const first = Array.isArray(chunk.choices) && chunk.choices.length ? chunk.choices[0] : null;
    const found = Exact.isMap(first) ? first.delta : chunk.delta;
    return typeof found === 'string' ? map({text: found}) : Exact.isMap(found) ? found : map();
  }

  /** The arguments of a call, which come as JSON in pieces; the text itself where it is none. */
  function parsed(text) {
    if (none(text) || text === '') return map();
    try {
      return typeof text === 'string' ? Exact.parse(text) : text;
    } catch {
      return text;
    }
  }

  function proposed(response) {
    const found = [],
      messages = [response, response.message, ...items(response.choices).map((one) => part(one, 'message'))];
    for (const message of messages.filter(Exact.isMap)) {
      for (const call of items(message.tool_calls)) {
        const function_ = Object.keys(part(call, 'function')).length ? call.function : call;
        found.push(proposal(call.id, function_.name, function_.arguments));
      }
      for (const block of [...items(message.content), ...items(message.output)])
        if (block.type === 'tool_use') found.push(proposal(block.id, block.name, block.input));
        else if (block.type === 'function_call') found.push(proposal(block.call_id, block.name, block.arguments));
    }
    return found;
  }

  function proposedInChunks(chunks) {
    const parts = new Map(),
      whole = [];
    const add = (place, id, name, text) => {
      if (!parts.has(place)) parts.set(place, proposal(null, null, ''));
      const call = parts.get(place);
      [call.id, call.name] = [call.id || (none(id) ? null : id), call.name || (none(name) ? null : name)];
      call.arguments += typeof text === 'string' ? text : '';
    };
    const number = (value) => (typeof value === 'string' ? JSON.stringify(value) : String(none(value) ? null : value));
    for (const chunk of chunks.filter(Exact.isMap)) {
      whole.push(...proposed(chunk));
      for (const choice of items(chunk.choices))
        for (const call of items(part(choice, 'delta').tool_calls)) {
          const function_ = part(call, 'function');
          add(`${number(choice.index)} ${number(call.index)}`, call.id, function_.name, function_.arguments);
        }
      const block = part(chunk, 'content_block'),
        found = part(chunk, 'delta'),
        place = ` ${number(chunk.index)}`;
      if (block.type === 'tool_use') add(place, block.id, block.name, '');
      if (found.type === 'input_json_delta') add(place, null, null, found.partial_json);
    }
    return whole.length ? whole : [...parts.values()];
  }

  return {message};
})();
