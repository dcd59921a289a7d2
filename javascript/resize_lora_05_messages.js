/* Messages of the server in the reader's language: each is matched with the templates of the translations. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.messages) return;

    const {dictionary} = resizeLora.words;

    /* A place of a template: {1} is a value, which is shown unchanged; {text2} is a message, which is translated. */
    const PLACE = /\{(\d+|text\d+)\}/;
    const DEEPEST = 4; // messages inside of messages
    const MOST_JOINTS = 8;
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
        return part(message, words, templatesOf(words), 0);
    }

    /* A message that may end with a full stop, follow names and colons, or be a list; null if no part is known. */
    function part(text, words, templates, depth) {
        if (depth > DEEPEST || !text) return null;
        const known = sentence(text, words, templates, depth);
        if (known !== null) return known;
        return afterColon(text, words, templates, depth) ?? eachOf(text, '; ', words, templates, depth);
    }

    /* A message, or one to which a full stop was added. */
    function sentence(text, words, templates, depth) {
        const known = whole(text, words, templates, depth);
        if (known !== null || !text.endsWith('.')) return known;
        const inner = whole(text.slice(0, -1), words, templates, depth);
        return inner === null ? null : inner + (IDEOGRAPHIC.test(inner) ? '。' : '.');
    }

    /* "path: message": the names before the message stay. */
    function afterColon(text, words, templates, depth) {
        let at = text.indexOf(': ');
        for (let i = 0; at >= 0 && i < MOST_JOINTS; i++, at = text.indexOf(': ', at + 2)) {
            const known = sentence(text.slice(at + 2), words, templates, depth);
            if (known !== null) return `${text.slice(0, at)}: ${known}`;
        }
        return null;
    }

    function eachOf(text, joint, words, templates, depth) {
        const pieces = text.split(joint);
        if (pieces.length < 2 || pieces.length > MOST_JOINTS) return null;
        const known = pieces.map(piece => part(piece, words, templates, depth + 1));
        return known.some(one => one !== null) ? known.map((one, i) => one ?? pieces[i]).join(joint) : null;
    }

    /* The translation of a whole message; null if there is none. */
    function whole(text, words, templates, depth) {
        if (Object.hasOwn(words, text) && words[text] && !PLACE.test(text)) return words[text];
        for (const template of templates) {
            const values = match(template, text);
            if (values) return filled(template, values, words, templates, depth);
        }
        return null;
    }

    function filled(template, values, words, templates, depth) {
        const shown = name => {
            const value = values[name];
            const known = name.startsWith('text') ? part(value, words, templates, depth + 1) : null;
            return known === null ? value : known;
        };
        return template.translation.map((piece, i) => (i % 2 ? shown(piece) : piece)).join('');
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

    /* The templates of a dictionary, the most literal ones first; made once for each dictionary. */
    function templatesOf(words) {
        if (!compiled.has(words)) compiled.set(words, compile(words));
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
