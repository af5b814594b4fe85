# Every target makes its own environment in .venv; PYTHON chooses the interpreter (3.10 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
REQUIRE_PYTHON = $(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "dualkd needs Python 3.10 or newer; choose one with make PYTHON=...")'

# make install: PREFIX is a folder of its own; DESTDIR stages everything for a package. On a Jetson, whose OpenCV is
# the system's: VENV_FLAGS=--system-site-packages. Bridges and view bring libraries: EXTRAS=bridge,view
PREFIX := /opt/dualkd
UNITS := /usr/local/lib/systemd/system
SYSUSERS := /usr/local/lib/sysusers.d/dualkd.conf
TMPFILES := /usr/local/lib/tmpfiles.d/dualkd.conf
EXAMPLES := /etc/dualkd
UNIT_FILES := dualkd@.service dualkd-replay@.service dualkd-bridge@.service dualkd-view.service
EXAMPLE_FILES := line1.yaml bridge.yaml view.yaml

.PHONY: demo view test check install uninstall clean

demo: .venv/.installed
	$(BIN)/python -m dualkd.export.demo --out build/demo

view: .venv/.installed
	$(BIN)/python -m dualkd.export.demo --out build/demo --view

test: .venv/.installed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# mypy and the import contracts do not follow an editable install, so they read a folder of links.
check: .venv/.installed
	mkdir -p build/types/dualkd
	ln -sfn ../../../daemon ../../../export ../../../train ../../../configs build/types/dualkd/
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=build/types $(BIN)/lint-imports

.venv/.installed: pyproject.toml
	$(REQUIRE_PYTHON)
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv; torch alone is several GB, so the first time takes minutes."
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

# pip gets a copy: it would ship what an old build folder still holds, and leave folders of root's in the checkout.
install:
	$(REQUIRE_PYTHON)
	@test ! -e $(DESTDIR)$(PREFIX) -o -e $(DESTDIR)$(PREFIX)/pyvenv.cfg || \
	    { echo "$(DESTDIR)$(PREFIX) is there and holds something else; choose another with make install PREFIX=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.base_prefix.startswith(("/home/", "/root/")) and print("WARNING: this Python lies in", sys.base_prefix, "which the service may not see; choose the system\x27s with make install PYTHON=/usr/bin/python3")'
	umask 022 && $(PYTHON) -m venv $(VENV_FLAGS) $(DESTDIR)$(PREFIX)
	umask 022 && copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && \
	    cp -R LICENSE README.md pyproject.toml configs daemon export train "$$copy" && \
	    $(DESTDIR)$(PREFIX)/bin/python -m pip install --disable-pip-version-check $(PIP_FLAGS) "$$copy$(if $(EXTRAS),[$(EXTRAS)])"
ifneq ($(DESTDIR),)
	find $(DESTDIR)$(PREFIX)/bin -type f -exec sed -i 's|$(DESTDIR)$(PREFIX)|$(PREFIX)|g' {} +
endif
	install -D -m 0644 -t $(DESTDIR)$(UNITS) $(addprefix systemd/,$(UNIT_FILES))
	sed -i 's|/opt/dualkd|$(PREFIX)|g' $(addprefix $(DESTDIR)$(UNITS)/,$(UNIT_FILES))
	install -D -m 0644 systemd/sysusers.conf $(DESTDIR)$(SYSUSERS)
	install -D -m 0644 systemd/tmpfiles.conf $(DESTDIR)$(TMPFILES)
	for name in $(EXAMPLE_FILES); do install -D -m 0644 systemd/$$name $(DESTDIR)$(EXAMPLES)/$$name.example || exit; done
	@echo
	@echo "Installed. Then, as root:"
	@echo "    systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload"
	@echo "    cp $(EXAMPLES)/line1.yaml.example /etc/dualkd/line1.yaml    # change it; bundles into /var/lib/dualkd/bundles"
	@echo "    systemctl enable --now dualkd@line1     # after an upgrade: systemctl restart 'dualkd@*' 'dualkd-bridge@*' 'dualkd-view*'"

uninstall:
	@test -e $(DESTDIR)$(PREFIX)/pyvenv.cfg || \
	    { echo "$(DESTDIR)$(PREFIX) is no installation of dualkd; name it with make uninstall PREFIX=..."; exit 1; }
	rm -rf $(DESTDIR)$(PREFIX)
	rm -f $(addprefix $(DESTDIR)$(UNITS)/,$(UNIT_FILES))
	rm -f $(addsuffix .example,$(addprefix $(DESTDIR)$(EXAMPLES)/,$(EXAMPLE_FILES)))
	rm -f $(DESTDIR)$(SYSUSERS) $(DESTDIR)$(TMPFILES)
	@echo "Kept: the configurations in /etc/dualkd, bundles, state and archives in /var/lib/dualkd, the user dualkd."

clean:
	rm -rf .venv build
