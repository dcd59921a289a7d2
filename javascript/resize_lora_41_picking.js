/* Selecting LoRAs in the library, with the mouse and the keyboard. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.picking) return;

    const {el} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {setCurrent} = resizeLora.analysis;
    const {bringIntoView, drawRows, list, putCursor} = resizeLora.rows;

    const HOVER_WAIT = 350; // milliseconds before a large preview is shown
    const EDGE = 24; // pixels at the ends of the list where dragging scrolls it

    /* The row where a drag began, what was selected before, and the large preview. */
    const pointer = {from: null, before: null, isDragging: false, timer: null, preview: null};

    const LISTENERS = {
        keydown: onKey,
        click: onClick,
        pointerdown: onDown,
        pointermove: onMove,
        pointerleave: hidePreview,
        wheel: hidePreview,
    };

    function rowAt(target) {
        return target.closest ? target.closest('.resize-lora-row') : null;
    }

    function indexOf(row) {
        return row ? state.rows.findIndex(entry => entry.key === row.dataset.key) : -1;
    }

    function onClick(event) {
        const index = indexOf(rowAt(event.target));
        if (index < 0 || pointer.isDragging) return;
        if (event.target.closest('[data-action="unfold"]')) {
            unfold(index, !state.rows[index].isUnfolded);
            return;
        }
        if (event.shiftKey) selectRange(state.cursor, index);
        else if (event.ctrlKey || event.metaKey || event.target.closest('.resize-lora-tick')) toggle(index);
        else selectOnly(index);
        arriveAt(index);
    }

    function arriveAt(index) {
        putCursor(index);
        const {file, other} = state.rows[index];
        if (!other) setCurrent(file.name);
        resizeLora.library.drawLibrary();
    }

    /* Shows or hides the versions of an original. */
    function unfold(index, isUnfolded) {
        const {file, versions} = state.rows[index];
        if (!versions.length) return;
        if (isUnfolded) state.unfolded.add(file.name);
        else state.unfolded.delete(file.name);
        putCursor(index);
        resizeLora.library.drawLibrary();
    }

    function nameOf(index) {
        const {file, other} = state.rows[index];
        return other ? null : file.name;
    }

    function toggle(index) {
        const name = nameOf(index);
        if (name && !state.selected.delete(name)) state.selected.add(name);
        state.leftOut = 0;
    }

    function selectOnly(index) {
        const name = nameOf(index);
        if (name) state.selected = new Set([name]);
        state.leftOut = 0;
    }

    function selectRange(from, to, before) {
        if (before) state.selected = new Set(before);
        for (let i = Math.min(from, to); i <= Math.max(from, to); i++) {
            const name = state.rows[i] && nameOf(i);
            if (name) state.selected.add(name);
        }
        state.leftOut = 0;
    }

    /* Resized files are left out, so that they are not resized again by accident. */
    function selectAll(on) {
        const able = on ? state.shown.filter(file => !file.problem) : [];
        const chosen = able.filter(file => !file.ours);
        state.selected = new Set(chosen.map(file => file.name));
        state.leftOut = able.length - chosen.length;
        if (chosen.length && !state.current) setCurrent(chosen[0].name);
        resizeLora.library.drawLibrary();
    }

    // Dragging over rows selects them; a finger scrolls the list.

    function onDown(event) {
        pointer.isDragging = false;
        pointer.from = null;
        if (event.pointerType !== 'mouse' || event.button !== 0 || event.shiftKey) return;
        if (event.target.closest('[data-action]')) return;
        const index = indexOf(rowAt(event.target));
        if (index < 0) return;
        const adds = event.ctrlKey || event.metaKey || event.target.closest('.resize-lora-tick');
        pointer.from = index;
        pointer.before = adds ? new Set(state.selected) : new Set();
    }

    function onMove(event) {
        const row = rowAt(event.target);
        if (event.pointerType === 'mouse' && event.buttons === 0) hoverPreview(event, row);
        if (pointer.from == null || event.buttons !== 1) return;
        const index = indexOf(row);
        if (index < 0 || (index === pointer.from && !pointer.isDragging)) return;
        pointer.isDragging = true;
        selectRange(pointer.from, index, pointer.before);
        putCursor(index);
        scrollAtEdge(event.clientY);
        resizeLora.library.drawLibrary();
    }

    function scrollAtEdge(y) {
        const box = list.box.getBoundingClientRect();
        if (y < box.top + EDGE) list.box.scrollTop -= list.height;
        else if (y > box.bottom - EDGE) list.box.scrollTop += list.height;
    }

    function onUp() {
        if (pointer.isDragging && state.rows[state.cursor]) {
            const name = nameOf(state.cursor);
            if (name) setCurrent(name);
            setTimeout(() => {
                pointer.isDragging = false; // after the click that ends the drag
            }, 0);
        }
        pointer.from = null;
    }

    // A large preview next to the row under the mouse.

    function hoverPreview(event, row) {
        const image = event.target.closest('.resize-lora-preview');
        const address = row && image && image.getAttribute('src');
        if (!address) {
            hidePreview();
            return;
        }
        if (pointer.preview && pointer.preview.dataset.key === row.dataset.key) return;
        hidePreview();
        pointer.timer = setTimeout(showPreview, HOVER_WAIT, address, row.dataset.key, image.getBoundingClientRect());
    }

    function showPreview(address, key, place) {
        hidePreview();
        const own = {id: 'resize_lora_preview', class: 'resize-lora', 'data-key': key, 'aria-hidden': 'true'};
        pointer.preview = el('div', own, el('img', {src: address, alt: ''}));
        document.body.append(pointer.preview);
        const box = pointer.preview.getBoundingClientRect();
        const top = Math.min(place.top, innerHeight - box.height - 8);
        pointer.preview.style.left = `${Math.min(place.right + 8, innerWidth - box.width - 8)}px`;
        pointer.preview.style.top = `${Math.max(8, top)}px`;
    }

    function hidePreview() {
        clearTimeout(pointer.timer);
        if (pointer.preview) pointer.preview.remove();
        pointer.preview = null;
    }

    // The keyboard

    function onKey(event) {
        const page = Math.max(1, Math.floor(list.box.clientHeight / list.height) - 1);
        const last = state.rows.length - 1;
        const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -last, End: last};
        const folds = {ArrowRight: true, ArrowLeft: false};
        if (last < 0) return;
        if (event.key in steps) moveCursor(steps[event.key], event.shiftKey, last);
        else if (event.key in folds) fold(folds[event.key]);
        else if (event.key === ' ') toggle(state.cursor);
        else if (event.key === 'Enter' && !event.ctrlKey) selectOnly(state.cursor);
        else if (event.key === 'a' && (event.ctrlKey || event.metaKey)) selectAll(true);
        else return;
        event.preventDefault();
        if (event.key !== 'a' && nameOf(state.cursor)) setCurrent(nameOf(state.cursor));
        resizeLora.library.drawLibrary();
    }

    function moveCursor(step, extend, last) {
        const before = state.cursor;
        putCursor(Math.min(last, Math.max(0, before + step)));
        if (extend) selectRange(before, state.cursor);
        bringIntoView(state.cursor);
    }

    /* Left goes from a version to its original first. */
    function fold(isUnfolded) {
        const {depth} = state.rows[state.cursor];
        if (depth && !isUnfolded) {
            let at = state.cursor;
            while (at > 0 && state.rows[at].depth) at -= 1;
            putCursor(at);
            bringIntoView(at);
        } else {
            unfold(state.cursor, isUnfolded);
        }
    }

    /* Brings a LoRA into view, whether or not its original is unfolded; false where the filter leaves it out. */
    function reveal(name) {
        const parent = [...state.families].find(([, versions]) => versions.some(one => one.name === name));
        if (parent) state.unfolded.add(parent[0]);
        resizeLora.library.drawLibrary();
        const at = state.rows.findIndex(entry => entry.key === name);
        if (at < 0) return false;
        putCursor(at);
        bringIntoView(at);
        drawRows();
        return true;
    }

    document.addEventListener('pointerup', onUp);

    resizeLora.picking = {LISTENERS, reveal, selectAll};
})((window.resizeLora = window.resizeLora || {}));
