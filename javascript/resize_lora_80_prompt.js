/* Tags in the host's prompts. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.prompt) return;

    const {withTag} = resizeLora.text;
    const {byId, hostOption, hostRoot, pause, typeInto} = resizeLora.elements;
    const {copyText, showError} = resizeLora.dialogs;
    const {callForFile} = resizeLora.session;

    const PROMPT_TABS = ['txt2img', 'img2img'];

    /* Puts the tag of a LoRA or result into a prompt of the host, or into the clipboard where there is none. */
    async function sendToPrompt(about, generate, tab) {
        try {
            const tag = await callForFile('prompt_tag', about);
            const into = PROMPT_TABS.includes(tab) ? tab : 'txt2img';
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
        await untilDrawn(area);
        area.focus();
        area.setSelectionRange(end, end);
    }

    /* A tab is drawn a moment after it was opened, and an element that is not drawn cannot have the cursor. */
    async function untilDrawn(element) {
        for (let i = 0; i < 40 && !element.offsetParent; i++) await pause(25);
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

    /* Opens a tab of the host. It is found by its place, because titles are translated. */
    function openTab(id) {
        const tabs = hostRoot().querySelector('#tabs');
        const parts = tabs ? [...tabs.children] : [];
        const nav = parts.find(part => part.classList.contains('tab-nav'));
        const at = parts.filter(part => part.classList.contains('tabitem')).findIndex(part => part.id === id);
        if (nav && at >= 0) nav.querySelectorAll('button')[at].click();
    }

    function promptArea(tab) {
        return hostRoot().querySelector(`#${tab}_prompt textarea`);
    }

    resizeLora.prompt = {PROMPT_TABS, copyTag, openTab, promptArea, sendToPrompt};
})((window.resizeLora = window.resizeLora || {}));
