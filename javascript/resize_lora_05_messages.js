/* Messages of the server in the reader's language: each is matched with the templates of the translations. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.messages) return;

    const {dictionary} = resizeLora.words;

    /* A place of a template: {1} is a value, which is shown unchanged; {text2} is a message, which is translated. */
    const PLACE = /\{(\d+|text\d+)\}/;
    const DEEPEST = 4; // messages inside of messages
    const MOST_JOINTS = 8;
    const MOST_STEPS = 400; // texts that are compared with the templates, for one message
    const MOST_KNOWN = 1000; // rows are drawn again and again
    const IDEOGRAPHIC = /[\u3040-\u30ff\u3400-\u9fff]$/;
    const compiled = new WeakMap();

    /* Titles of the kinds of errors, for messages without a translation. */
    const TITLES = {
        request: 'A bug in Resize LoRA',
        recipe: 'Invalid recipe',
        prompt: 'Invalid prompt',
        file: 'The file cannot be used',
        reference: 'The base model is missing or does not fit',
        refused: 'Not possible with these values',
        output: 'The result cannot be written',
        unavailable: 'Not available here',
        internal: 'A bug in Resize LoRA',
    };

    /* The message of an error {kind, message}. Without a translation it is English, after a translated title. */
    function errorText(error) {
        const message = String(error.message || error);
        const found = translation(message);
        if (found !== null) return found;
        const words = dictionary();
        const title = Object.hasOwn(TITLES, error.kind) ? TITLES[error.kind] : '';
        return Object.hasOwn(words, title) && words[title] ? `${words[title]}: ${message}` : message;
    }

    /* A message of the server, translated if a template matches it. */
    function messageText(message) {
        const found = message ? translation(message) : null;
        return found === null ? message : found;
    }

    function translation(message) {
        const words = dictionary();
        const {templates, known} = compiledFor(words);
        if (known.has(message)) return known.get(message);
        if (known.size >= MOST_KNOWN) known.clear();
        const search = {words, templates, found: new Map(), steps: MOST_STEPS};
        const best = part(message, search, 0);
        const found = best && best.shown;
        known.set(message, found);
        return found;
    }

    /* The best translation of a text, as {shown, weight}, or null; `weight` is how much literal text was recognised.
       The message may follow names and colons, which stay, or be a list. */
    function part(text, search, depth) {
        if (depth > DEEPEST || !text) return null;
        let best = sentence(text, search, depth);
        let at = text.indexOf(': ');
        for (let i = 0; at >= 0 && i < MOST_JOINTS; i++, at = text.indexOf(': ', at + 2)) {
            const rest = sentence(text.slice(at + 2), search, depth);
            if (rest && !(best && best.weight >= rest.weight)) {
                best = {shown: text.slice(0, at + 2) + rest.shown, weight: rest.weight};
            }
        }
        return best || eachOf(text, '; ', search, depth);
    }

    /* A message, or one to which a full stop was added. */
    function sentence(text, search, depth) {
        const known = whole(text, search, depth);
        const inner = text.endsWith('.') ? whole(text.slice(0, -1), search, depth) : null;
        if (!inner || (known && known.weight > inner.weight)) return known;
        return {shown: inner.shown + (IDEOGRAPHIC.test(inner.shown) ? '。' : '.'), weight: inner.weight};
    }

    function eachOf(text, joint, search, depth) {
        const pieces = text.split(joint);
        if (pieces.length < 2 || pieces.length > MOST_JOINTS) return null;
        const known = pieces.map(piece => part(piece, search, depth + 1));
        if (!known.some(Boolean)) return null;
        const shown = known.map((one, i) => (one ? one.shown : pieces[i])).join(joint);
        return {shown, weight: known.reduce((sum, one) => sum + (one ? one.weight : 0), 0)};
    }

    /* The translation of a whole message by the template that recognises most of it; null if none does. */
    function whole(text, search, depth) {
        if (search.found.has(text)) return search.found.get(text);
        if (search.steps-- <= 0) return null;
        const best = constant(text, search.words) || byTemplate(text, search, depth);
        search.found.set(text, best);
        return best;
    }

    function constant(text, words) {
        const isKnown = Object.hasOwn(words, text) && words[text] && !PLACE.test(text);
        return isKnown ? {shown: words[text], weight: text.length} : null;
    }

    function byTemplate(text, search, depth) {
        let best = null;
        for (const template of search.templates) {
            const values = match(template, text);
            const found = values && filled(template, values, search, depth);
            if (found && !(best && best.weight >= found.weight)) best = found;
        }
        return best;
    }

    function filled(template, values, search, depth) {
        let {weight} = template;
        const shown = name => {
            const known = name.startsWith('text') ? part(values[name], search, depth + 1) : null;
            if (!known) return values[name];
            weight += known.weight;
            return known.shown;
        };
        return {shown: template.translation.map((piece, i) => (i % 2 ? shown(piece) : piece)).join(''), weight};
    }

    /* The values of a template's places in a text, or null. Each literal is found once, from left to right. */
    function match({literals, names}, text) {
        const last = literals.length - 1;
        const end = text.length - literals[last].length;
        let at = literals[0].length;
        if (end < at || !text.startsWith(literals[0]) || !text.endsWith(literals[last])) return null;
        const values = Object.create(null);
        for (let i = 1; i <= last; i++) {
            const next = i === last ? end : text.indexOf(literals[i], at);
            if (next < at || next > end) return null;
            values[names[i - 1]] = text.slice(at, next);
            at = next + literals[i].length;
        }
        return values;
    }

    /* The templates of a dictionary, the most literal ones first, and the messages that were asked for. */
    function compiledFor(words) {
        if (!compiled.has(words)) compiled.set(words, {templates: compile(words), known: new Map()});
        return compiled.get(words);
    }

    function compile(words) {
        const found = Object.keys(words).filter(key => PLACE.test(key) && words[key]);
        return found.map(key => compiledTemplate(key, words[key])).sort((a, b) => b.weight - a.weight);
    }

    function compiledTemplate(text, translated) {
        const pieces = text.split(PLACE);
        const literals = pieces.filter((_, i) => i % 2 === 0);
        const weight = literals.reduce((sum, literal) => sum + literal.length, 0);
        return {literals, weight, names: pieces.filter((_, i) => i % 2), translation: translated.split(PLACE)};
    }

    resizeLora.messages = {errorText, messageText};
})((window.resizeLora = window.resizeLora || {}));
