/* The search and the filters of the library. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.filterBar) return;

    const {t} = resizeLora.words;
    const {foldersOf, isFiltering, savedFilter} = resizeLora.filter;
    const {button, checkbox, chooser, el, input, labelled, setText, show} = resizeLora.elements;
    const {keep, kept} = resizeLora.storage;
    const {state} = resizeLora.model;
    const {showError} = resizeLora.dialogs;
    const {readLibrary} = resizeLora.session;

    const parts = {
        search: null,
        show: null,
        family: null,
        folder: null,
        gain: null,
        fits: null,
        sort: null,
        large: null,
        clear: null,
        families: null, // the choices that the chooser has
        folders: null,
    };

    const SORTS = [['modified', 'Newest']];

    /* `orders`: the columns that the library can be sorted by. */
    function frameFilter(orders) {
        state.filter = savedFilter(kept('filter'));
        state.isLarge = kept('large') === true;
        const set = change => resizeLora.library.setFilter(change);
        parts.search = input('search', 'resize_lora_search', {
            placeholder: t('Search'),
            'aria-label': t('Search the library'),
            on: {input: () => set({text: parts.search.value})},
        });
        const {sort} = state.filter;
        const texts = orders.map(([key, text]) => [key, t(text)]);
        parts.sort = chooser('resize_lora_sort', t('Sort by'), texts, sort, value => set({sort: value}));
        const narrow = el('label', {class: 'resize-lora-narrow'}, parts.sort);
        const refresh = {id: 'resize_lora_refresh', 'data-action': 'refresh'};
        const look = {id: 'resize_lora_large', 'data-action': 'large', 'aria-pressed': 'false'};
        parts.large = button(t('Large previews'), () => setLarge(!state.isLarge), look);
        const reread = button(t('Refresh'), () => readLibrary(true).catch(showError), refresh);
        const first = [parts.search, narrow, reread, resizeLora.shrink.shrinkButton()];
        return [el('div', {class: 'resize-lora-tools'}, first), frameChoices(set)];
    }

    function frameChoices(set) {
        const shows = [
            ['', t('All LoRAs')],
            ['new', t('Not resized yet')],
            ['broken', t('Not resizable')],
        ];
        parts.show = chooser('resize_lora_show', t('Show'), shows, '', value => set({show: value}));
        parts.family = chooser('resize_lora_family', t('Family'), [], '', value => set({family: value}));
        parts.folder = chooser('resize_lora_in_folder', t('Folder'), [], '', value => set({folder: value}));
        const gain = {min: '0', step: '10', placeholder: '0', on: {input: () => set({gain: readGain()})}};
        parts.gain = input('number', 'resize_lora_gain', gain);
        parts.fits = checkbox('resize_lora_fits', t('Compatible'), false, fits => set({fits}));
        parts.fits.title = t('Show only LoRAs for the model family of the loaded checkpoint');
        const clear = {id: 'resize_lora_clear', 'data-action': 'clear-filter', hidden: true};
        parts.clear = button(t('Clear filter'), () => resizeLora.library.clearFilter(), clear);
        const field = labelled(
            t('Frees over (MB)'),
            parts.gain,
            t('Show only LoRAs that a resize makes smaller by this'),
        );
        field.classList.add('resize-lora-inline');
        return el(
            'div',
            {class: 'resize-lora-tools resize-lora-choices'},
            parts.show,
            parts.family,
            parts.folder,
            field,
            parts.fits,
            parts.large,
            parts.clear,
        );
    }

    function readGain() {
        const value = Number(parts.gain.value);
        return value > 0 ? value : 0;
    }

    function keepFilter() {
        keep('filter', {...state.filter, text: ''});
    }

    function setLarge(isLarge) {
        state.isLarge = isLarge;
        keep('large', isLarge);
        drawFilter();
        resizeLora.rows.measureRows();
        resizeLora.library.drawLibrary();
    }

    function drawFilter() {
        const {filter} = state;
        const files = [...state.files.values()];
        const families = new Set(files.map(file => file.family).filter(Boolean));
        parts.families = fillChooser(
            parts.family,
            t('All families'),
            [...families].sort(),
            filter.family,
            parts.families,
        );
        parts.folders = fillChooser(parts.folder, t('All folders'), foldersOf(files), filter.folder, parts.folders);
        parts.show.value = filter.show;
        parts.sort.value = filter.sort;
        parts.fits.querySelector('input').checked = filter.fits;
        if (parts.search.value !== filter.text) parts.search.value = filter.text;
        if (readGain() !== filter.gain) parts.gain.value = filter.gain ? String(filter.gain) : '';
        show(parts.clear, isFiltering(filter));
        resizeLora.rows.list.box.classList.toggle('resize-lora-large', state.isLarge);
        parts.large.setAttribute('aria-pressed', String(state.isLarge));
        setText(parts.large, state.isLarge ? t('Small previews') : t('Large previews'));
    }

    /* A choice of an earlier visit stays, even where no file has it any more. Returns what the chooser has. */
    function fillChooser(place, all, names, value, before) {
        const choices = value && !names.includes(value) ? [...names, value] : names;
        const key = JSON.stringify(choices);
        if (key !== before) {
            const options = choices.map(name => el('option', {value: name}, name));
            place.replaceChildren(el('option', {value: ''}, all), ...options);
        }
        place.value = value;
        return key;
    }

    resizeLora.filterBar = {SORTS, drawFilter, frameFilter, keepFilter};
})((window.resizeLora = window.resizeLora || {}));
