/* What shrinking a library would free, and what it would leave alone. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.sums) return;

    const {byText, withParents} = resizeLora.filter;

    /* Returns whether a folder is an excluded one or inside of one. '' has only the files of the LoRA folder itself. */
    function isExcluded(folder, excluded) {
        if (excluded.has(folder)) return true;
        return [...excluded].some(one => one !== '' && folder.startsWith(`${one}/`));
    }

    /* Why a row of the plan is left alone; '' where it is part of the run. `after` is its new size in bytes, or null
       where it is not known. */
    function reasonOf(row, after, limits) {
        if (row.left) return row.left;
        if (isExcluded(row.folder || '', limits.folders)) return 'folder';
        if (limits.families.has(row.family)) return 'family';
        if (after != null && gainsTooLittle(row.bytes, after, limits.leastGain)) return 'gain';
        return '';
    }

    function gainsTooLittle(before, after, leastGain) {
        return after >= before || 100 * shareSaved(before, after) < leastGain;
    }

    /* The share of a file that is saved; negative where the new file is larger. */
    function shareSaved(before, after) {
        return before > 0 ? 1 - after / before : 0;
    }

    /* The sums of a plan for one preset. `afterOf(row)` is the new size in bytes, or null where it is not known.

       {files, before, after, freed, bytes, source, unknown: {files, bytes}, left: Map(reason -> rows)}: `files` are all
       of the run, `bytes` their size now and `source` the size of what is read for them; `before`, `after` and `freed`
       are of the files whose new size is known, the others are `unknown`. */
    function sumsOf(rows, afterOf, limits) {
        const sums = {files: 0, before: 0, after: 0, freed: 0, bytes: 0, source: 0, left: new Map()};
        sums.unknown = {files: 0, bytes: 0};
        for (const row of rows) addRow(sums, row, afterOf(row), limits);
        sums.freed = sums.before - sums.after;
        return sums;
    }

    function addRow(sums, row, after, limits) {
        const reason = reasonOf(row, after, limits);
        if (reason) {
            if (!sums.left.has(reason)) sums.left.set(reason, []);
            sums.left.get(reason).push(row);
            return;
        }
        sums.files += 1;
        sums.bytes += row.bytes_now;
        sums.source += row.bytes;
        if (after == null) {
            sums.unknown.files += 1;
            sums.unknown.bytes += row.bytes_now;
        } else {
            sums.before += row.bytes_now;
            sums.after += after;
        }
    }

    /* How many rows each known family has, sorted by name: [[family, files]]. */
    function familyCounts(rows) {
        return counted(rows.map(row => (row.family ? [row.family] : [])));
    }

    /* How many rows each folder has, with those of the folders inside of it, sorted by name: [[folder, files]]. */
    function folderCounts(rows) {
        return counted(rows.map(row => withParents(row.folder || '')));
    }

    function counted(lists) {
        const found = new Map();
        for (const value of lists.flat()) found.set(value, (found.get(value) || 0) + 1);
        return [...found].sort(([one], [other]) => byText(one, other));
    }

    /* Bytes that the disk of the archive must have free: originals on another disk are copied; on the same one they are
       moved, and only the new file is added. A file of unknown size is counted whole. */
    function roomNeeded(sums, isSameDisk) {
        return isSameDisk ? sums.after + sums.unknown.bytes : sums.source;
    }

    resizeLora.sums = {familyCounts, folderCounts, shareSaved, roomNeeded, sumsOf};
})((window.resizeLora = window.resizeLora || {}));
