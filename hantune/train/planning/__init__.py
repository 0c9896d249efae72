"""What a run will be, told before its weights are loaded: ``hantune plan`` and the gate of ``hantune train``.

    rehearsal  a step of the run on tensors without contents: bytes of tensors at every moment, what a token computes
    memory     what that takes of the process or the card, and of the disk
    flops      how much the run computes
    target     whose memory it is: this machine's, or that of cards elsewhere
    outlook    all of these for one configuration: does it fit?
    ladder     changes of the configuration that make it fit
    gate       what does not fit is refused, with the ladder
    duration   seconds, by trials of the run's own micro-batches or by how fast the machine multiplies
    forecast   everything together, as ``hantune plan`` and ``hantune train --dry-run`` show it
"""
