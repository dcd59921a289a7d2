/* Which LoRAs the library shows, and in which order. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.filter) return;

    const collator = new Intl.Collator(undefined, {numeric: true});

    function byText(a, b) {
        return collator.compare(a, b);
    }

    /* The files that match a filter, sorted; `after(file)` is the expected size of the result, or null. */
    function matching(files, filter, after) {
        const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
        const sign = filter.down ? -1 : 1;
        return files
            .filter(file => matches(file, filter, words))
            .sort((a, b) => sign * compareBy(filter.sort, a, b, after) || byText(a.name, b.name));
    }

    function matches(file, {family, fits}, words) {
        if (family && (file.family || '') !== family) return false;
        if (fits && file.fits !== true) return false;
        const searched = `${file.folder}/${file.name} ${file.kind || ''}`.toLowerCase();
        return words.every(word => searched.includes(word));
    }

    /* A file without a value comes after all others, except in the column `after`, where it is the largest. */
    function compareBy(column, a, b, after) {
        const value = file => (column === 'after' ? (after(file) ?? Infinity) : file[column]);
        const x = value(a);
        const y = value(b);
        if (x === y) return 0;
        if (x == null || y == null) return (x == null) - (y == null);
        return typeof x === 'string' ? byText(x, y) : x - y;
    }

    /* Original -> the smaller files that were made from it, the smallest first. */
    function versionsOf(files) {
        const known = new Map(files.map(file => [file.name, file]));
        const found = new Map();
        for (const file of files) {
            const source = file.ours && known.get(file.ours.source);
            if (source && file.bytes < source.bytes) found.set(source.name, [...(found.get(source.name) || []), file]);
        }
        for (const versions of found.values()) versions.sort((a, b) => a.bytes - b.bytes);
        return found;
    }

    resizeLora.filter = {byText, compareBy, matching, versionsOf};
})((window.resizeLora = window.resizeLora || {}));
