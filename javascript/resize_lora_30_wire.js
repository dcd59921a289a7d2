/* Calls to the server through three hidden Gradio components (docs/panel-protocol.md). */
(function (resizeLora) {
    'use strict';
    if (resizeLora.wire) return;

    const {t} = resizeLora.words;
    const {parsed} = resizeLora.text;
    const {hostRoot, pause, typeInto} = resizeLora.elements;
    const {state} = resizeLora.model;

    /* In milliseconds. Calls that only read are repeated, so their timeout is shorter than that of others. */
    const TIMEOUTS = {status: 15000, previews: 15000, check_recipe: 15000, plan: 30000, resize: 180000};

    const USUAL_TIMEOUT = 60000;
    const FIRST_PAUSE = 1600; // before the second try of a call

    /* Calls are made one after the other, because request and reply are one text box each. */
    function call(method, params) {
        const answer = state.wire.last.then(() => exchange(method, params || {}));
        state.wire.last = answer.catch(error => {
            if (error.kind === 'stale') resizeLora.session.onRestart();
        });
        return answer;
    }

    function exchange(method, params) {
        const id = ++state.wire.lastId;
        const request = hostRoot().querySelector('#resize_lora_request textarea');
        const send = hostRoot().querySelector('#resize_lora_send');
        if (!request || !send) return Promise.reject(failure(t('The Resize LoRA tab is still loading.')));
        const session = state.session && method !== 'hello' ? {session: state.session} : {};
        typeInto(request, JSON.stringify({id, ...session, method, params}));
        return new Promise((resolve, reject) => {
            setTimeout(() => send.click(), 0);
            awaitReply(id, Date.now() + (TIMEOUTS[method] || USUAL_TIMEOUT), '', resolve, reject);
        });
    }

    function awaitReply(id, deadline, seen, resolve, reject) {
        const box = hostRoot().querySelector('#resize_lora_reply textarea');
        const text = box ? box.value : seen;
        const reply = text === seen ? null : parsed(text);
        if (reply && reply.id === id) {
            if (reply.error) reject(failure(reply.error.message, reply.error));
            else resolve(reply.result);
        } else if (!box) {
            reject(failure(t('The Resize LoRA tab is still loading.'))); // the host removes its page to reload it
        } else if (Date.now() > deadline) {
            reject(failure(t('The server does not respond.'), {kind: 'timeout'}));
        } else {
            setTimeout(awaitReply, 15, id, deadline, text, resolve, reject);
        }
    }

    function failure(message, fields) {
        return Object.assign(new Error(message), fields);
    }

    /* Repeats a call a few times after a timeout. Only for calls that change nothing. */
    async function callWithRetry(method, params, tries = 4) {
        try {
            return await call(method, params);
        } catch (error) {
            if (error.kind !== 'timeout' || tries <= 1) throw error;
            await pause(FIRST_PAUSE * 2 ** (4 - tries));
            return callWithRetry(method, params, tries - 1);
        }
    }

    resizeLora.wire = {call, callWithRetry};
})((window.resizeLora = window.resizeLora || {}));
