/* Text of prompts, spreadsheets, recipes and replies. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.text) return;

    /* The prompt with the new tag in place of an old one, weights kept; else at its end with the activation text. */
    function withTag(prompt, tag, separator) {
        const old = new Set(tag.old_names);
        let end = -1;
        let grown = 0;
        const text = prompt.replace(/<(lora|lyco):([^:>]+)((?::[^>]*)?)>/gi, (whole, kind, name, rest, at) => {
            if (!old.has(name) && name !== tag.name) return whole;
            const made = `<${kind}:${tag.name}${rest}>`;
            if (end < 0) end = at + grown + made.length;
            grown += made.length - whole.length;
            return made;
        });
        if (end >= 0) return {text, end};
        const gap = prompt && !/\s$/.test(prompt) ? separator : '';
        const added = prompt + gap + tag.tag + (tag.activation ? ` ${tag.activation}` : '');
        return {text: added, end: added.length};
    }

    /* A cell of a CSV file. Text that a spreadsheet would read as a formula gets an apostrophe in front. */
    function csvCell(value) {
        const isFormula = typeof value === 'string' && /^\s*[=+\-@\t\r＝＋－＠]/.test(value);
        const text = isFormula ? `'${value}` : String(value ?? '');
        return /[",\r\n\t']/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    }

    function csvText(rows) {
        return `\ufeff${rows.map(row => row.map(csvCell).join(',')).join('\r\n')}\r\n`;
    }

    /* "a=2,b" -> {a: 2, b: 1}. */
    function scoreItems(text) {
        const items = text.split(',').map(item => item.split('='));
        return Object.fromEntries(items.map(([name, value]) => [name, value === undefined ? 1 : Number(value)]));
    }

    /* The parameters of a resize for some of its files; several recipes in one text become one order each. */
    function splitByRecipe(params, some) {
        if (!(params.recipe || '').includes(':')) return [{...params, names: some.map(one => one.name)}];
        const names = new Map();
        some.forEach(one => names.set(one.recipe, [...(names.get(one.recipe) || []), one.name]));
        return [...names].map(([recipe, group]) => ({...params, recipe, names: group}));
    }

    /* The value of a JSON text; null where it is not one. */
    function parsed(text) {
        try {
            return JSON.parse(text);
        } catch {
            return null;
        }
    }

    const LONG = 12; // letters of a name that is cut
    const TAIL = 8; // letters of its end that are always shown: there, versions differ

    /* A name in two parts: where there is no room, the end of the first part is cut and never the second. */
    function nameParts(name) {
        const letters = Array.from(name);
        if (letters.length < LONG) return [name, ''];
        return [letters.slice(0, -TAIL).join(''), letters.slice(-TAIL).join('')];
    }

    resizeLora.text = {csvCell, csvText, nameParts, parsed, scoreItems, splitByRecipe, withTag};
})((window.resizeLora = window.resizeLora || {}));
