"""Segmentation quality, without a model or torch.

confusion.py  pixels by true and predicted class
miou.py       mIoU in both definitions, fwIoU, mACC and pACC, all of these pixels
boundary.py   boundary IoU: the same near contours
panoptic.py   PQ, SQ and RQ of segments
mask_ap.py    mask AP of objects
"""
