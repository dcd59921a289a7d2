/* Tags in the host's prompts. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.prompt) return;

    const {t} = resizeLora.words;
    const {withTag} = resizeLora.text;
    const {byId, hostOption, hostRoot, pause, typeInto} = resizeLora.elements;
    const {copyText, showError} = resizeLora.dialogs;
    const {callForFile} = resizeLora.session;

    const PROMPT_TABS = ['txt2img', 'img2img', 'control', 'video'];

    /* The tabs of the host that have a prompt. */
    function promptTabs() {
        return PROMPT_TABS.filter(promptArea);
    }

    /* The tab that is meant where none is named: txt2img, or control where the host hides txt2img. */
    function mainTab() {
        const tabs = ['txt2img', 'control', ...promptTabs()].filter(promptArea);
        return tabs.find(isOffered) || tabs[0] || 'txt2img';
    }

    function isOffered(tab) {
        const nav = tabButton(`tab_${tab}`);
        return !nav || nav.getClientRects().length > 0;
    }

    /* The words of the button that sends a tag to the prompt. */
    function sendText() {
        const tab = mainTab();
        return tab === 'txt2img' ? t('Send to txt2img') : t('Send to {tab}', {tab});
    }

    /* Puts the tag of a LoRA or result into a prompt of the host, or into the clipboard where there is none. */
    async function sendToPrompt(about, generate, tab) {
        try {
            const tag = await callForFile('prompt_tag', about);
            const into = promptTabs().includes(tab) ? tab : mainTab();
            if (!promptArea(into)) {
                await copyText(tag.tag);
                return;
            }
            await insertTag(into, tag);
            if (generate) byId(`${into}_generate`).click();
        } catch (error) {
            showError(error);
        }
    }

    async function insertTag(tab, tag) {
        const area = promptArea(tab);
        const {text, end} = withTag(area.value, tag, hostOption('extra_networks_add_text_separator') || ' ');
        typeInto(area, text);
        addNegative(tab, tag.negative);
        openTab(`tab_${tab}`);
        await focusOn(area);
        area.setSelectionRange(end, end);
    }

    /* A tab is drawn a moment after it was opened, in some hosts slowly. An element that is not drawn cannot have the
       cursor. */
    async function focusOn(element) {
        for (let i = 0; i < 40; i++) {
            element.focus();
            if (element.getRootNode().activeElement === element) return;
            await pause(25);
        }
    }

    function addNegative(tab, negative) {
        const area = negative && hostRoot().querySelector(`#${tab}_neg_prompt textarea`);
        if (area && !area.value.includes(negative)) typeInto(area, area.value ? `${area.value} ${negative}` : negative);
    }

    async function copyTag(about) {
        try {
            await copyText((await callForFile('prompt_tag', about)).tag);
        } catch (error) {
            showError(error);
        }
    }

    /* Opens a tab of the host. */
    function openTab(id) {
        const nav = tabButton(id);
        if (!nav) return;
        nav.click();
        foldCards();
    }

    /* On a phone, the side of ModernUI with the cards covers all tabs. */
    function foldCards() {
        const isOpen = hostRoot().querySelector('.media-mobile #accordion-aside.expand');
        const fold = hostRoot().querySelector('#acc-arrow-button');
        if (isOpen && fold) fold.click();
    }

    /* The button of a tab. It is found by its place, because titles are translated. ModernUI of SD.Next moves the
       contents of a tab into a page of its own, whose buttons name their page. */
    function tabButton(id) {
        const pages = [`#${id}_tabitem`, `#${id.replace(/^tab_/, '')}_tabitem`];
        const isOf = nav =>
            nav
                .getAttribute('tabitemid')
                .split(/[\s,]+/)
                .some(page => pages.includes(page));
        const own = [...hostRoot().querySelectorAll('button[tabitemid]')].find(isOf);
        if (own) return own;
        const tabs = hostRoot().querySelector('#tabs');
        const parts = tabs ? [...tabs.children] : [];
        const nav = parts.find(part => part.classList.contains('tab-nav'));
        const at = parts.filter(part => part.classList.contains('tabitem')).findIndex(part => part.id === id);
        return nav && at >= 0 ? nav.querySelectorAll('button')[at] : null;
    }

    function promptArea(tab) {
        return hostRoot().querySelector(`#${tab}_prompt textarea`);
    }

    resizeLora.prompt = {PROMPT_TABS, copyTag, mainTab, openTab, promptArea, promptTabs, sendText, sendToPrompt};
})((window.resizeLora = window.resizeLora || {}));
