/* Drawing the host's cards again.

   A host draws all its cards anew at each refresh, which takes long with thousands of them. So they are drawn once
   when the queue runs empty, and every ten seconds at most while it does not. A host drops a refresh that comes during
   another; where the cards then lack what was made, it is asked for again. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.redraw) return;

    const {byId} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {activeJobs} = resizeLora.choice;
    const {PROMPT_TABS} = resizeLora.prompt;

    const REDRAW_GAP = 10000;
    const HIDDEN_GAP = 2000;
    const MOST_REDRAWS = 3;

    function refreshCards() {
        state.redraw.isDue = false;
        state.redraw.tries = 0;
        redrawIn(activeJobs().length ? REDRAW_GAP : state.redraw.last + REDRAW_GAP - Date.now());
    }

    /* A list of results can be newer than the last job that is known, and then no end of a job asks for the cards. */
    function refreshStale() {
        if (PROMPT_TABS.some(cardsDiffer)) refreshCards();
    }

    function queueRanEmpty() {
        if (state.redraw.timer && !state.redraw.tries) redrawIn(0, true);
    }

    function redrawIn(wait, sooner) {
        if (state.redraw.timer && !sooner) return;
        clearTimeout(state.redraw.timer);
        state.redraw.timer = setTimeout(redrawCards, Math.max(0, wait));
    }

    function redrawCards() {
        state.redraw.timer = null;
        const tabs = state.redraw.tries ? PROMPT_TABS.filter(cardsDiffer) : PROMPT_TABS;
        const buttons = tabs.map(refreshButton).filter(Boolean);
        if (state.redraw.tries > MOST_REDRAWS) return;
        if (buttons.length) {
            state.redraw.tries += 1;
            state.redraw.last = Date.now();
            for (const one of buttons) one.dispatchEvent(new Event('click'));
            redrawIn(REDRAW_GAP);
        } else if (tabs.some(cardsDiffer)) {
            redrawIn(HIDDEN_GAP);
        }
    }

    /* SD.Next has one button for all pages of a tab, which draws the page that is shown. Hidden cards wait for that. */
    function refreshButton(tab) {
        const own = byId(`${tab}_lora_extra_refresh_internal`);
        const pane = byId(`${tab}_lora_cards`);
        return own || (pane && pane.offsetParent ? byId(`${tab}_extra_refresh`) : null);
    }

    /* False where the cards were never drawn: they will be drawn from the host's list, which is up to date. */
    function cardsDiffer(tab) {
        const pane = byId(`${tab}_lora_cards`);
        if (!pane) return false;
        const names = new Set([...pane.querySelectorAll('.card')].map(card => resizeLora.cards.cardName(card)));
        return names.size > 0 && state.results.some(one => names.has(one.output) !== (one.state === 'there'));
    }

    resizeLora.redraw = {queueRanEmpty, refreshCards, refreshStale};
})((window.resizeLora = window.resizeLora || {}));
