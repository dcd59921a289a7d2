/* English text in the reader's language. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.words) return;

    const {count} = resizeLora.numbers;

    const ENGLISH = {};

    /* The host's translations; on the standalone page its own, by the language of the browser. */
    function dictionary() {
        const host = window.localization;
        if (host && Object.keys(host).length) return host;
        const known = window.resizeLoraLanguages || {};
        for (const language of navigator.languages || []) {
            if (/^en\b/i.test(language)) return ENGLISH;
            const found = Object.keys(known).find(name => name.split('-')[0] === language.split('-')[0]);
            if (found) return known[found];
        }
        return ENGLISH;
    }

    /* English text, with {places} for values, in the reader's language. */
    function t(text, values) {
        const words = dictionary()[text] || text;
        return values ? words.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole)) : words;
    }

    /* Text for a number of things: English has two forms, other languages translate each as they need. */
    function plural(number, one, many, values) {
        return t(number === 1 ? one : many, {n: count(number), ...values});
    }

    /* The first names of a list, and how many more there are. */
    function listed(names, most = 5) {
        const first = names.slice(0, most).join(', ');
        return names.length > most ? t('{names} and {n} more', {names: first, n: count(names.length - most)}) : first;
    }

    function duration(seconds) {
        if (seconds < 90) return t('{n} s left', {n: Math.max(1, Math.round(seconds))});
        return t('{n} min left', {n: Math.round(seconds / 60)});
    }

    resizeLora.words = {dictionary, duration, listed, plural, t};
})((window.resizeLora = window.resizeLora || {}));
