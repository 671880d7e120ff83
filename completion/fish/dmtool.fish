# SPDX-License-Identifier: Apache-2.0
#
# Completion of dmtool's command lines in fish. What fits is asked of dmtool itself, which starts no
# core for it: dmtool/cli/completion.py.

function __dmtool_complete
    # As dmtool would get them; at the cursor a quote may be open.
    set -l words (string unescape -- (commandline -opc))
    set -l current (string replace -r '^[\'"]' '' -- (commandline -ct))
    string match -qr -- '\\\\' $current; and set current (string unescape -- $current)
    command -q -- $words[1]; or return
    set -l answer (_DMTOOL_COMPLETE=fish $words[1] $words[2..] "$current" 2>/dev/null)
    switch " $answer[1] "
        case '* files *'
            __fish_complete_path $current
        case '* commands *'
            __fish_complete_command
        case '*'
            printf '%s\n' $answer[2..]
    end
end

complete -c dmtool -f -a '(__dmtool_complete)'

# Under these names only where they are dmtool.
for name in dmsetup dmstats
    set -l place (command -s $name)
    and string match -q '*/dmtool' (path resolve $place)
    and complete -c $name -f -a '(__dmtool_complete)'
end
