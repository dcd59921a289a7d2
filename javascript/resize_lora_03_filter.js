/* Which LoRAs the library shows, and in which order. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.filter) return;

    const {MIB} = resizeLora.numbers;

    const collator = new Intl.Collator(undefined, {numeric: true});

    const SHOWS = ['', 'new', 'broken'];
    const SORTS = ['name', 'family', 'kind', 'rank', 'bytes', 'after', 'gain', 'modified'];

    /* `show`: '' for all, `new` for LoRAs without a smaller version, `broken` for those that cannot be resized;
       `gain`: at least this many MB are saved; `fits`: only those of the loaded checkpoint's family. */
    const FILTER = {text: '', show: '', family: '', folder: '', gain: 0, fits: false, sort: 'bytes', down: true};

    function byText(a, b) {
        return collator.compare(a, b);
    }

    /* Names of originals -> the files that were made from them in any number of steps, the smallest first. */
    function familiesOf(files) {
        const known = new Map(files.map(file => [file.name, file]));
        const found = new Map();
        for (const file of files) {
            const root = rootOf(file, known);
            if (root !== file) found.set(root.name, [...(found.get(root.name) || []), file]);
        }
        for (const versions of found.values()) versions.sort((a, b) => a.bytes - b.bytes);
        return found;
    }

    /* The original that a file goes back to; files that name each other in a circle end the search. */
    function rootOf(file, known) {
        const seen = new Set();
        let at = file;
        while (at.ours && known.has(at.ours.source) && !seen.has(at)) {
            seen.add(at);
            at = known.get(at.ours.source);
        }
        return seen.has(at) ? file : at;
    }

    /* The rows of the library: an original, below it the files made from it where it is unfolded, and next to each the
       other files of its name. A row is {key, file, depth, versions, isUnfolded, other}; `other` is the entry of such a
       file, else null. `view` has `after(file)`, the expected bytes of the result or null; `families`, of familiesOf;
       and `unfolded`, names of originals. */
    function rowsOf(files, filter, view) {
        const children = new Set([...view.families.values()].flat());
        const test = matcher(filter, view);
        const order = sorter(filter, view.after);
        return files
            .filter(file => !children.has(file))
            .map(file => groupOf(file, test, view))
            .filter(Boolean)
            .sort((a, b) => order(a[0].file, b[0].file))
            .flat();
    }

    /* The rows of an original; null where neither it nor one of its versions matches. Versions that alone match are
       shown below their original. */
    function groupOf(file, test, {families, unfolded}) {
        const versions = families.get(file.name) || [];
        const found = versions.filter(test);
        const isMatch = test(file);
        if (!isMatch && !found.length) return null;
        const isUnfolded = versions.length > 0 && (unfolded.has(file.name) || !isMatch);
        const shown = isMatch ? versions : found;
        return [
            {key: file.name, file, depth: 0, versions, isUnfolded, other: null},
            ...otherRows(file, 0),
            ...(isUnfolded ? shown : []).flatMap(version => [
                {key: version.name, file: version, depth: 1, versions: [], isUnfolded: false, other: null},
                ...otherRows(version, 1),
            ]),
        ];
    }

    function otherRows(file, depth) {
        return (file.same_name || []).map(other => {
            const key = `${file.name}\n${other.folder}`;
            return {key, file, depth, versions: [], isUnfolded: false, other};
        });
    }

    /* The files that match a filter, sorted, versions too; `view` as for rowsOf. */
    function matching(files, filter, view) {
        return files.filter(matcher(filter, view)).sort(sorter(filter, view.after));
    }

    /* A function that returns whether a file matches a filter. */
    function matcher(filter, view) {
        const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
        return file => matchesChoice(file, filter, view) && matchesText(file, words);
    }

    function matchesText(file, words) {
        const searched = `${file.folder}/${file.name} ${file.kind || ''}`.toLowerCase();
        return words.every(word => searched.includes(word));
    }

    function matchesChoice(file, filter, {after, families}) {
        return (
            matchesPlace(file, filter) &&
            (filter.show !== 'broken' || Boolean(file.problem)) &&
            (filter.show !== 'new' || isNew(file, families)) &&
            (!filter.gain || (gainOf(file, after) ?? -Infinity) > filter.gain * MIB)
        );
    }

    function matchesPlace(file, {family, folder, fits}) {
        if (family && (file.family || '') !== family) return false;
        if (folder && !isInFolder(file, folder)) return false;
        return !fits || file.fits === true;
    }

    function isInFolder(file, folder) {
        return file.folder === folder || file.folder.startsWith(`${folder}/`);
    }

    function isNew(file, families) {
        return !file.ours && !file.archived && !file.problem && !families.has(file.name);
    }

    /* The bytes that resizing a file would save; null where that is not known. */
    function gainOf(file, after) {
        const bytes = after(file);
        return bytes == null ? null : file.bytes - bytes;
    }

    /* Orders files; those without a value come last in both directions. */
    function sorter({sort, down}, after) {
        const sign = down ? -1 : 1;
        const value = file => {
            if (sort === 'gain') return gainOf(file, after);
            return sort === 'after' ? after(file) : file[sort];
        };
        return (a, b) => compare(value(a), value(b), sign) || byText(a.name, b.name);
    }

    function compare(x, y, sign) {
        if (x === y) return 0;
        if (x == null || y == null) return (x == null) - (y == null);
        return sign * (typeof x === 'string' ? byText(x, y) : x - y);
    }

    /* All folders of files and the folders above them, sorted. */
    function foldersOf(files) {
        const found = new Set();
        for (const {folder} of files) {
            if (folder) withParents(folder).forEach(name => found.add(name));
        }
        return [...found].sort(byText);
    }

    /* A folder after the folders above it. */
    function withParents(folder) {
        const names = folder.split('/');
        return names.map((_, i) => names.slice(0, i + 1).join('/'));
    }

    /* The filter of an earlier visit, without its search; what is not as it should be is left out. */
    function savedFilter(saved) {
        const {show, family, folder, gain, fits, sort, down} = saved && typeof saved === 'object' ? saved : {};
        const text = value => (typeof value === 'string' ? value : '');
        return {
            ...FILTER,
            show: SHOWS.includes(show) ? show : FILTER.show,
            family: text(family),
            folder: text(folder),
            gain: Number.isFinite(gain) && gain > 0 ? gain : 0,
            fits: fits === true,
            sort: SORTS.includes(sort) ? sort : FILTER.sort,
            down: typeof down === 'boolean' ? down : FILTER.down,
        };
    }

    /* Whether a filter leaves LoRAs out. */
    function isFiltering(filter) {
        return ['text', 'show', 'family', 'folder', 'gain', 'fits'].some(name => filter[name] !== FILTER[name]);
    }

    resizeLora.filter = {
        FILTER,
        byText,
        familiesOf,
        foldersOf,
        gainOf,
        isFiltering,
        matching,
        rowsOf,
        savedFilter,
        withParents,
    };
})((window.resizeLora = window.resizeLora || {}));
