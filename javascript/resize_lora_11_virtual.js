/* Lists of many rows of one height: only the rows in view are in the page. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.virtual) return;

    const {el, show} = resizeLora.elements;

    const HEIGHT = '--resize-lora-item'; // the height of a row, set in the style

    const MORE_ROWS = 6; // rows outside of the view

    /* A list with a scroll bar of its own: {box, set}. `make()` returns an empty row and `fill(row, item)` fills it; a
       row stays with its item as long as it is in view, so that the focus does not move to another item. */
    function virtualList(label, make, fill) {
        const space = el('div', {class: 'resize-lora-space', role: 'presentation'});
        const box = el('div', {class: 'resize-lora-items', role: 'list', tabIndex: 0, 'aria-label': label}, space);
        const list = {box, space, make, fill, items: [], rows: [], height: 0};
        box.addEventListener('scroll', () => requestAnimationFrame(() => draw(list)));
        new ResizeObserver(() => draw(list)).observe(box);
        return {
            box,
            set: items => {
                list.items = items;
                draw(list);
            },
        };
    }

    function draw(list) {
        const {box, space, items} = list;
        const height = parseFloat(getComputedStyle(box).getPropertyValue(HEIGHT));
        space.style.height = `${items.length * height}px`;
        if (!box.clientHeight) return;
        const most = Math.ceil(box.clientHeight / height) + MORE_ROWS;
        const first = Math.max(0, Math.min(Math.floor(box.scrollTop / height) - 2, items.length - most));
        while (list.rows.length < most) list.rows.push(space.appendChild(makeRow(list)));
        const rows = list.rows.map(row => ({row, index: null}));
        for (let i = first; i < Math.min(items.length, first + most); i++) rows[i % rows.length].index = i;
        rows.forEach(({row, index}) => place(list, row, index, height));
    }

    function makeRow({make}) {
        const row = make();
        row.classList.add('resize-lora-item');
        row.setAttribute('role', 'listitem');
        return row;
    }

    function place({items, fill}, row, index, height) {
        show(row, index != null);
        if (index == null) return;
        row.style.transform = `translateY(${index * height}px)`;
        row.setAttribute('aria-posinset', String(index + 1));
        row.setAttribute('aria-setsize', String(items.length));
        fill(row, items[index]);
    }

    resizeLora.virtual = {virtualList};
})((window.resizeLora = window.resizeLora || {}));
