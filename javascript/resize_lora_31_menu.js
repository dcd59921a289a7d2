/* A menu at a place of the page. One is open at a time. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.menu) return;

    const {el, quiet} = resizeLora.elements;
    const {state} = resizeLora.model;

    /* Opens a menu with a title; returns its element. */
    function showMenu(title, items, x, y) {
        closeMenu();
        const on = {keydown: onKey, contextmenu: event => event.preventDefault()};
        const own = {id: 'resize_lora_menu', class: 'resize-lora', role: 'menu', 'aria-label': title, on};
        const head = {class: 'resize-lora-menu-title resize-lora-cut', role: 'presentation'};
        const menu = el('div', own, el('div', head, title), items);
        menu.before = document.activeElement;
        state.menu = menu;
        (document.querySelector('dialog.resize-lora[open]') || document.body).append(menu);
        const place = () => placeMenu(menu, x, y);
        place();
        new ResizeObserver(place).observe(menu); // sizes of presets arrive later and make it wider
        const first = menu.querySelector('button');
        if (first) first.focus({preventScroll: true});
        return menu;
    }

    /* Puts the menu at a point, or as near to it as the window allows. */
    function placeMenu(menu, x, y) {
        const box = menu.getBoundingClientRect();
        menu.style.left = `${Math.max(4, Math.min(x, innerWidth - box.width - 4))}px`;
        menu.style.top = `${Math.max(4, Math.min(y, innerHeight - box.height - 4))}px`;
    }

    /* An item; `reason` says why it cannot be used. */
    function menuItem(text, work, key, reason) {
        const click = () => {
            if (item.getAttribute('aria-disabled') === 'true') return;
            closeMenu();
            work();
        };
        const own = {type: 'button', role: 'menuitem', 'data-key': key, on: {click}};
        const item = el('button', own, el('span', null, text), quiet());
        if (reason) disableItem(item, reason);
        return item;
    }

    function disableItem(item, reason) {
        item.setAttribute('aria-disabled', String(Boolean(reason)));
        item.title = reason || '';
    }

    function closeMenu() {
        if (!state.menu) return;
        const {before} = state.menu;
        const inside = state.menu.contains(document.activeElement);
        state.menu.remove();
        state.menu = null;
        if (inside && before && before.isConnected) before.focus({preventScroll: true});
    }

    function onKey(event) {
        const items = [...state.menu.querySelectorAll('button')];
        const at = items.indexOf(document.activeElement);
        const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1}[event.key];
        if (event.key === 'Tab') closeMenu();
        else if (to === undefined) return;
        else items[(to + items.length) % items.length].focus();
        event.preventDefault();
    }

    resizeLora.menu = {closeMenu, disableItem, menuItem, showMenu};
})((window.resizeLora = window.resizeLora || {}));
