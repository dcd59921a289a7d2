/* The frame of the page, and its start. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.page) return;

    const {t} = resizeLora.words;
    const {errorText} = resizeLora.messages;
    const {button, byId, el, hostRoot, quietLine} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {closeMenu} = resizeLora.menu;
    const {placeToasts} = resizeLora.dialogs;
    const {start} = resizeLora.session;
    const {cancelAtKey, poll} = resizeLora.jobs;
    const {drawLibrary, frameLibrary} = resizeLora.library;
    const {drawReference, frameReference} = resizeLora.reference;
    const {drawTarget, frameTarget} = resizeLora.target;
    const {frameStudy} = resizeLora.study;
    const {drawQueue, frameActions, frameQueue, runButton} = resizeLora.queue;
    const {drawResults, frameResults} = resizeLora.results;
    const {drawRuns, frameRuns} = resizeLora.runRows;
    const {onCardButton, onContextMenu} = resizeLora.cards;

    /* Elements with a use of their own for Esc: fields for text, choosers, dialogs and menus. */
    const USES_ESCAPE = [
        'input:not([type="checkbox"], [type="radio"], [type="range"])',
        'textarea',
        'select',
        '[contenteditable=""]',
        '[contenteditable="true"]',
        '[role="dialog"]',
        '[role="menu"]',
    ].join(', ');

    const SLIM = 900; // pixels; below it, the style has another layout

    const USES_TEXT = 'input:not([type="checkbox"], [type="radio"], [type="range"]), textarea, [contenteditable]';

    function drawFrame() {
        state.root.replaceChildren(
            frameReference(),
            frameLibrary(),
            frameTarget(),
            frameActions(),
            frameQueue(),
            frameRuns(),
            frameResults(),
            frameStudy(),
        );
        drawReference();
        drawLibrary();
        drawTarget();
        drawQueue();
        drawRuns();
        drawResults();
    }

    function onKey(event) {
        if (event.isComposing || event.defaultPrevented) return;
        if (event.key === 'Escape' && state.menu) {
            closeMenu();
            event.stopPropagation();
            return;
        }
        if (runButton() && state.root.offsetParent && !isCovered()) onTabKey(event);
    }

    /* A host's page presses the run button at Ctrl+Enter by itself; at Esc it presses only its own buttons. */
    function onTabKey(event) {
        if (event.key === 'Escape' && !hasOtherUseForEscape(event.composedPath()[0])) cancelAtKey();
        if (event.key === '?' && !isTyping(event.composedPath()[0])) resizeLora.help.openHelp();
        if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !window.get_uiCurrentTabContent) {
            runButton().click();
        }
    }

    function isTyping(element) {
        return Boolean(element.closest && element.closest(USES_TEXT));
    }

    /* Returns whether a dialog or a menu, ours or the host's, is over the tab. */
    function isCovered() {
        const popup = document.querySelector('.global-popup');
        const isPopupOpen = Boolean(popup) && popup.style.display !== 'none';
        return isPopupOpen || Boolean(document.querySelector('dialog[open], #context-menu'));
    }

    /* In a field Esc discards what was typed, in a list or a menu it closes what is open; jobs are not meant. */
    function hasOtherUseForEscape(element) {
        return Boolean(element.closest && element.closest(USES_ESCAPE));
    }

    /* Puts the tab next to Gradio's own block, where neither its styles nor its updates reach it. Returns whether it
       is in the page. */
    function mount() {
        const place = byId('resize_lora_app');
        if (state.root && state.root.isConnected) return true;
        if (!place || !hostRoot().querySelector('#resize_lora_reply textarea')) return false;
        if (!state.root) state.root = makeRoot();
        place.after(state.root);
        place.classList.add('resize-lora-ready');
        return true;
    }

    function makeRoot() {
        const made = el('div', {id: 'resize_lora_root', class: 'resize-lora'}, quietLine(t('Reading…')));
        new ResizeObserver(() => made.classList.toggle('resize-lora-slim', isSlim(made))).observe(made);
        new IntersectionObserver(seen => {
            placeToasts();
            if (seen.some(one => one.isIntersecting)) onShown();
            else mountSoon();
        }).observe(made);
        return made;
    }

    /* A host may give the tab a part of its page alone, next to its cards: the boxes are then one under the other. */
    function isSlim(root) {
        return root.clientWidth > 0 && root.clientWidth < SLIM && window.innerWidth > SLIM;
    }

    /* Waits until the page has a place for the tab; a host may remove it again. */
    function mountSoon() {
        if (!mount()) setTimeout(mountSoon, 400);
    }

    /* The tab came into view: what the host has may have changed meanwhile. */
    function onShown() {
        start().then(poll).catch(showStartError);
    }

    function showStartError(error) {
        const text = el('p', {class: 'resize-lora-fault', role: 'alert'}, errorText(error));
        state.root.replaceChildren(text, button(t('Retry'), onShown));
    }

    function leaveMenu(event) {
        if (state.menu && !state.menu.contains(event.target)) closeMenu();
    }

    document.addEventListener('contextmenu', onContextMenu, true);
    document.addEventListener('keydown', onKey, true);
    document.addEventListener('pointerdown', leaveMenu, true);
    document.addEventListener('wheel', leaveMenu, {capture: true, passive: true});
    document.addEventListener('touchmove', leaveMenu, {capture: true, passive: true});
    window.addEventListener('blur', closeMenu);
    window.resizeLoraFromCard = onCardButton; // the host's cards call it by this name
    if (typeof window.onUiLoaded === 'function') window.onUiLoaded(mount);
    mountSoon();

    resizeLora.page = {drawFrame};
})((window.resizeLora = window.resizeLora || {}));
